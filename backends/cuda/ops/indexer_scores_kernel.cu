// indexer_scores on CUDA (sm_80 and later), for bfloat16: 8 warps to a block take 256 keys of a query, as
// device/indexer.cuh describes. No shared memory.
// Limits: 144 registers, 0 bytes of stack, 0 bytes of shared memory.
#include "v4npu/ops/indexer_scores.h"

#include "../device/indexer.cuh"

namespace v4npu::cuda {

template <Format K, bool Official>
V4NPU_DEVICE void scores(const IndexerScoresParams& p) {
  const int64_t t = block_x(), width = p.max_blocks * p.block_size;
  const int64_t first = (static_cast<int64_t>(block_y()) * kRowWarps + warp_id()) * kWarpKeys;
  if (first >= width) return;
  const QueryPlace place = place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t);
  const int64_t visible = visible_entries(p, place);
  const int g = lane_id() / 4, c = lane_id() % 4;
  float total[kKeyTiles][2] = {};
  if (first < visible) key_scores<K, Official>(p, t, place.sequence, first, visible, total);
  if (g != 0) return;
  float* out = p.scores + t * width;
  V4NPU_UNROLL
  for (int n = 0; n < kKeyTiles; ++n) {
    V4NPU_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int64_t s = first + n * 8 + 2 * c + i;
      if (s < width) out[s] = s < visible ? total[n][i] : -bits_float(0x7f800000);  // 5 mask
    }
  }
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(indexer_scores_plain, v4npu::cuda::kRowThreads, v4npu::IndexerScoresParams) {
  v4npu::cuda::scores<v4npu::cuda::Format::kBfloat16, false>(p);
}
V4NPU_KERNEL(indexer_scores_plain_official, v4npu::cuda::kRowThreads, v4npu::IndexerScoresParams) {
  v4npu::cuda::scores<v4npu::cuda::Format::kBfloat16, true>(p);
}
V4NPU_KERNEL(indexer_scores_packed, v4npu::cuda::kRowThreads, v4npu::IndexerScoresParams) {
  v4npu::cuda::scores<v4npu::cuda::Format::kFloat4, false>(p);
}
V4NPU_KERNEL(indexer_scores_packed_official, v4npu::cuda::kRowThreads, v4npu::IndexerScoresParams) {
  v4npu::cuda::scores<v4npu::cuda::Format::kFloat4, true>(p);
}
