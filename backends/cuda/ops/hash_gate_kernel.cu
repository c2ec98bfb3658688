// hash_gate on CUDA (sm_80 and later). A block of 256 threads takes a token and reads the rows of the experts that the
// table names. An id or expert out of range, which nobody can refuse without waiting, gives expert 0 and NaN weights.
// Dynamic shared memory: 4 bytes per choice and 1024 columns, and per choice.
// Limits: 112 registers, 0 bytes of stack, 0 bytes of shared memory.
#include "v4npu/ops/hash_gate.h"

#include "../device/products.cuh"

namespace v4npu::cuda {

template <class X, class W>
V4NPU_DEVICE void token(const HashGateParams& p) {
  const int64_t t = block_x(), pieces = (p.hidden_size + kColumns - 1) / kColumns;
  auto* parts = reinterpret_cast<float*>(dynamic_shared());
  float* scores = parts + p.topk * pieces;
  const int64_t id = p.input_ids[t];
  const int64_t* table = p.tid2eid + id * p.topk;
  const auto expert = [&](int64_t i) {
    if (id < 0 || id >= p.vocab_size) return int64_t{-1};
    return table[i] >= 0 && table[i] < p.num_experts ? table[i] : -1;
  };
  const X* x = static_cast<const X*>(p.x) + t * p.hidden_size;
  const W* weight = static_cast<const W*>(p.weight);
  const bool x_pieces = in_pieces(x, p.hidden_size), w_pieces = in_pieces(weight, p.hidden_size);
  for (int64_t task = warp_id(); task < p.topk * pieces; task += kRowWarps) {  // 1 logits
    const int64_t e = expert(task / pieces), b = task % pieces;
    const float sum =
        dots<1>(x + b * kColumns, p.hidden_size, 1, weight + (e < 0 ? 0 : e) * p.hidden_size + b * kColumns,
                columns_of(p.hidden_size, b), x_pieces, w_pieces);
    if (lane_id() == 0) parts[task] = e < 0 ? bits_float(0x7fc00000) : sum;
  }
  sync_block();
  for (int64_t i = thread_id(); i < p.topk; i += kRowThreads) {
    float logit = 0.0f;
    for (int64_t b = 0; b < pieces; ++b) logit += parts[i * pieces + b];
    scores[i] = gate_score(logit);  // 2 scores
  }
  sync_block();
  for (int64_t i = thread_id(); i < p.topk; i += kRowThreads) {
    float sum = 0.0f;
    for (int64_t j = 0; j < p.topk; ++j) sum += scores[j];
    const int64_t e = expert(i);
    p.topk_indices[t * p.topk + i] = static_cast<int32_t>(e < 0 ? 0 : e);  // 3 in table order
    p.topk_weights[t * p.topk + i] = scores[i] / sum * p.route_scale;      // 4 weights
  }
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(hash_gate_fp32_fp32, v4npu::cuda::kRowThreads, v4npu::HashGateParams) {
  v4npu::cuda::token<float, float>(p);
}
V4NPU_KERNEL(hash_gate_fp32_bf16, v4npu::cuda::kRowThreads, v4npu::HashGateParams) {
  v4npu::cuda::token<float, v4npu::cuda::bf16>(p);
}
V4NPU_KERNEL(hash_gate_bf16_fp32, v4npu::cuda::kRowThreads, v4npu::HashGateParams) {
  v4npu::cuda::token<v4npu::cuda::bf16, float>(p);
}
V4NPU_KERNEL(hash_gate_bf16_bf16, v4npu::cuda::kRowThreads, v4npu::HashGateParams) {
  v4npu::cuda::token<v4npu::cuda::bf16, v4npu::cuda::bf16>(p);
}
