// gate on the CPU: few tokens share the experts among threads, many tokens are shared themselves (products.h). The best
// so far of a token are kept, sorted, in its rows of the outputs.
#include "v4npu/ops/gate.h"

#include "parallel.h"
#include "simd.h"
#include "simd/products.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

// Whether a goes before b, which has the smaller index. NaN is the largest value, as it is to torch.sort.
V4NPU_INLINE bool better(float a, float b) { return a > b || (a != a && b == b); }

void choose(const GateParams& p, int64_t t) {
  float *scores = p.scores + t * p.num_experts, *best = p.topk_weights + t * p.topk;
  int32_t* indices = p.topk_indices + t * p.topk;
  for (int64_t e = 0; e < p.num_experts; e += kLanes) {  // 2 scores
    const int64_t n = p.num_experts - e;
    store_upto(scores + e, sqrt(softplus(load_upto(scores + e, n))), n);
  }
  int64_t count = 0;
  for (int64_t e = 0; e < p.num_experts; ++e) {  // 3 the largest
    const float value = p.bias != nullptr ? scores[e] + p.bias[e] : scores[e];
    if (count == p.topk && !better(value, best[count - 1])) continue;
    int64_t at = count < p.topk ? count++ : count - 1;
    for (; at > 0 && better(value, best[at - 1]); --at) {
      best[at] = best[at - 1];
      indices[at] = indices[at - 1];
    }
    best[at] = value;
    indices[at] = static_cast<int32_t>(e);
  }
  float sum = 0.0f;
  for (int64_t i = 0; i < p.topk; ++i) sum += scores[indices[i]];
  for (int64_t i = 0; i < p.topk; ++i) best[i] = scores[indices[i]] / sum * p.route_scale;  // 4 weights
}

template <class X, class W>
void launch(const GateParams& p) {
  products_then(static_cast<const X*>(p.x), p.num_tokens, static_cast<const W*>(p.weight), p.num_experts, p.hidden_size,
                p.scores, [&](int64_t t) { choose(p, t); });  // 1 logits
}

template <class X>
void launch(const GateParams& p) {
  p.weight_dtype == Dtype::kFloat32 ? launch<X, float>(p) : launch<X, bf16>(p);
}

}  // namespace

void gate(const GateParams& p) { p.dtype == Dtype::kFloat32 ? launch<float>(p) : launch<bf16>(p); }

}  // namespace v4npu::cpu::V4NPU_ISA
