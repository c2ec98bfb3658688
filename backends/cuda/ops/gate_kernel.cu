// gate on CUDA (sm_80 and later), two kernels: the logits (products.cuh: 256 threads take 8 tokens and some experts),
// and the choice, a warp to a token. Shared memory of the choice: 4 bytes per expert and warp.
// Limits: 120 registers, 0 bytes of stack, 0 bytes of shared memory.
#include "v4npu/ops/gate.h"

#include "../device/products.cuh"

namespace v4npu::cuda {

V4NPU_DEVICE void choose(const GateParams& p) {
  const int64_t t = static_cast<int64_t>(block_x()) * kRowWarps + warp_id();
  if (t >= p.num_tokens) return;
  const float* logits = p.scores + t * p.num_experts;
  auto* keys = reinterpret_cast<uint32_t*>(dynamic_shared()) + warp_id() * p.num_experts;  // a lane its own
  for (int64_t e = lane_id(); e < p.num_experts; e += kWarp) {
    const float score = gate_score(logits[e]);  // 2 scores
    keys[e] = order_of(p.bias != nullptr ? score + p.bias[e] : score);
  }
  float sum = 0.0f;
  for (int64_t i = 0; i < p.topk; ++i) {  // 3 the largest, the smaller index among equals
    uint32_t best = 0, at = 0xffffffffu;
    for (int64_t e = lane_id(); e < p.num_experts; e += kWarp) {
      if (keys[e] > best) {
        best = keys[e];
        at = static_cast<uint32_t>(e);
      }
    }
    V4NPU_UNROLL
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const uint32_t other = shuffle_xor(best, mask), other_at = shuffle_xor(at, mask);
      if (other > best || (other == best && other_at < at)) {
        best = other;
        at = other_at;
      }
    }
    if (at % kWarp == static_cast<uint32_t>(lane_id())) keys[at] = 0;
    if (lane_id() == 0) {
      const float score = gate_score(logits[at]);
      sum += score;
      p.topk_indices[t * p.topk + i] = static_cast<int32_t>(at);
      p.topk_weights[t * p.topk + i] = score;
    }
  }
  if (lane_id() != 0) return;
  for (int64_t i = t * p.topk; i < (t + 1) * p.topk; ++i) p.topk_weights[i] = p.topk_weights[i] / sum * p.route_scale;
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(gate_products_fp32_fp32, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<float, float>(p);
}
V4NPU_KERNEL(gate_products_fp32_bf16, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<float, v4npu::cuda::bf16>(p);
}
V4NPU_KERNEL(gate_products_bf16_fp32, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<v4npu::cuda::bf16, float>(p);
}
V4NPU_KERNEL(gate_products_bf16_bf16, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<v4npu::cuda::bf16, v4npu::cuda::bf16>(p);
}
V4NPU_KERNEL(gate_choose, v4npu::cuda::kRowThreads, v4npu::GateParams) { v4npu::cuda::choose(p); }
