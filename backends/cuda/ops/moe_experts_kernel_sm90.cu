// moe_experts on sm_90 and later: steps 2 to 4 for few tokens in one kernel, with the bits of moe_experts_kernel.cu.
//   moe_experts_up_fp8_<weight>_cluster   its split layout, 16 rows and 16 tokens to a block. The 8 blocks of a cluster
//                                         have the 128 rows that one of act_quant's scales is for, and read each
//                                         other's largest values.
// Grid: tiles of tokens, tiles of rows up to a whole cluster.
// Limits: 128 registers, 0 bytes of stack, 17664 bytes of shared memory.
#include "v4npu/ops/moe_experts.h"

#include "../device/experts.cuh"

namespace v4npu::cuda {

struct TokenPeaks {
  float of[16];
};

// The largest of the values of 2 N lanes, which begin at a multiple of 2 N; all get it.
template <int N>
V4NPU_INLINE float peak_of_lanes(float peak) {
  V4NPU_UNROLL
  for (int mask = N; mask > 0; mask /= 2) peak = larger_or_nan(peak, bits_float(shuffle_xor(float_bits(peak), mask)));
  return peak;
}

template <Format W>
V4NPU_DEVICE void up_cluster(const ExpertGemm& p) {
  const int32_t e = p.routing.tiles[block_x()];
  if (e < 0) return;  // the whole cluster does
  const Operands<2> o = expert_operands<Format::kFloat8, W, 2>(p, e);
  float total[2] = {};
  split_sums<Format::kFloat8, W, 2>(o, block_y(), total);
  const int64_t row = int64_t{block_y()} * 16 + thread_id() % 16, token = o.first_token + thread_id() / 16;
  const int64_t at = p.routing.starts[e] + token;
  const bool inside = row < o.num_rows && token < o.num_tokens;
  const float y = inside ? rounded<bf16>(activated(p, at, total[0], total[1])) : 0.0f;
  auto& peaks = shared<TokenPeaks>();
  const float own = peak_of_lanes<8>(magnitude(y));
  if (thread_id() % 16 == 0) peaks.of[thread_id() / 16] = own;
  sync_cluster();
  const float peak = peak_of_lanes<4>(read_shared(&peaks.of[thread_id() / 16], thread_id() % kClusterBlocks));
  sync_cluster();  // with a block goes its shared memory
  if (inside) store_quantised(p, at, row, y, peak);
}

}  // namespace v4npu::cuda

V4NPU_CLUSTER_KERNEL(moe_experts_up_fp8_fp8_cluster, v4npu::cuda::kGemmThreads, v4npu::cuda::kClusterBlocks,
                     v4npu::cuda::ExpertGemm) {
  v4npu::cuda::up_cluster<v4npu::cuda::Format::kFloat8>(p);
}
V4NPU_CLUSTER_KERNEL(moe_experts_up_fp8_fp4_cluster, v4npu::cuda::kGemmThreads, v4npu::cuda::kClusterBlocks,
                     v4npu::cuda::ExpertGemm) {
  v4npu::cuda::up_cluster<v4npu::cuda::Format::kFloat4>(p);
}
