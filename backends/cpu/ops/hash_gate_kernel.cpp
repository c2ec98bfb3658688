// hash_gate on the CPU: a thread takes whole tokens, and reads the rows of the experts that the table names: the
// others' logits change nothing.
#include "v4npu/ops/hash_gate.h"

#include "parallel.h"
#include "simd.h"
#include "simd/products.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

// 1 logits of the experts `ids`.
template <int Rows, class X, class W>
void logits(const X* x, const W* weight, const int64_t* ids, int64_t count, int64_t k, float* out) {
  for (; count >= Rows; count -= Rows, ids += Rows, out += Rows) {
    const W* each[Rows];
    for (int r = 0; r < Rows; ++r) each[r] = weight + ids[r] * k;
    one_token<Rows>(x, each, k, out);
  }
  if constexpr (Rows > 1) {
    if (count > 0) logits<Rows / 2>(x, weight, ids, count, k, out);
  }
}

template <class X, class W>
void tokens(const HashGateParams& p, int64_t begin, int64_t end) {
  const int64_t k = p.hidden_size, topk = p.topk;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t* ids = p.tid2eid + p.input_ids[t] * topk;
    float* weights = p.topk_weights + t * topk;
    logits<kMaxRows>(static_cast<const X*>(p.x) + t * k, static_cast<const W*>(p.weight), ids, topk, k, weights);
    for (int64_t i = 0; i < topk; i += kLanes)  // 2 scores
      store_upto(weights + i, sqrt(softplus(load_upto(weights + i, topk - i))), topk - i);
    float sum = 0.0f;
    for (int64_t i = 0; i < topk; ++i) sum += weights[i];
    for (int64_t i = 0; i < topk; ++i) {
      p.topk_indices[t * topk + i] = static_cast<int32_t>(ids[i]);  // 3 in table order
      weights[i] = weights[i] / sum * p.route_scale;                // 4 weights
    }
  }
}

}  // namespace

void hash_gate(const HashGateParams& p) {
  const bool wide = p.weight_dtype == Dtype::kFloat32;
  const auto body = p.dtype == Dtype::kFloat32 ? (wide ? &tokens<float, float> : &tokens<float, bf16>)
                                               : (wide ? &tokens<bf16, float> : &tokens<bf16, bf16>);
  parallel_rows(p.num_tokens, p.topk * p.hidden_size, [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
