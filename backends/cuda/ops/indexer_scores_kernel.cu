// indexer_scores on CUDA (sm_80 and later), bfloat16 and float32. 8 warps to a block take 256 keys of a query, as
// device/indexer.cuh describes; indexer_scores_tile_...: 64 keys of 32 tokens. If those are of one sequence, the keys
// are read and widened once for all, a warp to a token; the bits are the same.
// Limits: 192 registers, 0 bytes of stack, 33792 bytes of shared memory.
#include "v4npu/ops/indexer_scores.h"

#include "../device/indexer.cuh"

namespace v4npu::cuda {

// Scores of the 32 keys from `first` on to their places before `end`.   5 mask
V4NPU_INLINE void store_scores(float* out, int64_t first, int64_t visible, int64_t end,
                               const float (&total)[kKeyTiles][2]) {
  if (lane_id() >= 4) return;
  V4NPU_UNROLL
  for (int n = 0; n < kKeyTiles; ++n) {
    V4NPU_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int64_t s = first + n * 8 + 2 * lane_id() + i;
      if (s < end) out[s] = s < visible ? total[n][i] : -bits_float(0x7f800000);
    }
  }
}

template <Format K, bool Official>
V4NPU_DEVICE void scores(const IndexerScoresParams& p) {
  const int64_t t = block_x(), width = p.max_blocks * p.block_size;
  const int64_t first = (static_cast<int64_t>(block_y()) * kRowWarps + warp_id()) * kWarpKeys;
  if (first >= width) return;
  const QueryPlace place = place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t);
  const int64_t visible = visible_entries(p, place);
  if constexpr (K == Format::kFloat32) {
    const int64_t s = first + lane_id();
    const float score = float_score(p, t, PageKeys<K>::row(p, place.sequence, s, visible));
    if (s < width) p.scores[t * width + s] = s < visible ? score : -bits_float(0x7f800000);
  } else {
    float total[kKeyTiles][2] = {};
    if (first < visible) key_scores<Official>(p, t, PageKeys<K>(p, place.sequence, first, visible), total);
    store_scores(p.scores + t * width, first, visible, width, total);
  }
}

// Grid: tiles of keys, for each tile of tokens.
template <Format K, bool Official>
V4NPU_DEVICE void score_tile(const ScoreTile& s) {
  const IndexerScoresParams& p = s.call;
  auto& tile = shared<KeyTile>();
  const int tiles = static_cast<int>(ceil_div(s.end_key - s.first_key, kTileKeys));
  const int64_t first_key = s.first_key + int64_t{block_x() % tiles} * kTileKeys;
  const int64_t first_token = s.first_token + int64_t{block_x() / tiles} * kTileTokens;
  const int64_t end_token = first_token + kTileTokens < s.end_token ? first_token + kTileTokens : s.end_token;
  const QueryPlace begin = place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, first_token);
  const QueryPlace last = place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, end_token - 1);
  const bool together = begin.sequence == last.sequence;
  if (together) {
    const int64_t end = visible_entries(p, last);
    const int runs = static_cast<int>((p.head_dim + 63) / 64 * 64 / kRun);
    for (int task = thread_id(); task < kTileKeys * runs; task += kRowThreads) {
      const int key = task / runs, k0 = task % runs * kRun;
      Run v[1];
      PageKeys<K>::widen(PageKeys<K>::row(p, begin.sequence, first_key + key, end), k0, p.head_dim, v);
      const auto& pair = v[0].pair;
      store_as(&tile.row[key][k0], u32x4{pair[0], pair[1], pair[2], pair[3]});
      store_as(&tile.row[key][k0 + 8], u32x4{pair[4], pair[5], pair[6], pair[7]});
    }
    sync_block();
  }
  for (int64_t t = first_token + warp_id(); t < end_token; t += kRowWarps) {
    QueryPlace place{begin.sequence, begin.position + t - first_token};
    if (!together) place = place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t);
    const int64_t visible = visible_entries(p, place);
    for (int half = 0; half < kTileKeys / kWarpKeys; ++half) {
      const int64_t first = first_key + half * kWarpKeys;
      float total[kKeyTiles][2] = {};
      if (first < visible && together) {
        key_scores<Official>(p, t, TileKeys<K>{tile.row[half * kWarpKeys + lane_id() / 4]}, total);
      } else if (first < visible) {
        key_scores<Official>(p, t, PageKeys<K>(p, place.sequence, first, visible), total);
      }
      float* out = p.scores + (t - s.first_token) * (s.end_key - s.first_key) - s.first_key;
      store_scores(out, first, visible, s.end_key, total);
    }
  }
}

}  // namespace v4npu::cuda

#define V4NPU_SCORES(name, K, official)                                                        \
  V4NPU_KERNEL(indexer_scores_##name, v4npu::cuda::kRowThreads, v4npu::IndexerScoresParams) {  \
    v4npu::cuda::scores<v4npu::cuda::Format::K, official>(p);                                  \
  }                                                                                            \
  V4NPU_KERNEL(indexer_scores_tile_##name, v4npu::cuda::kRowThreads, v4npu::cuda::ScoreTile) { \
    v4npu::cuda::score_tile<v4npu::cuda::Format::K, official>(p);                              \
  }
V4NPU_SCORES(plain, kBfloat16, false)
V4NPU_SCORES(plain_official, kBfloat16, true)
V4NPU_SCORES(fp4, kFloat4, false)
V4NPU_SCORES(fp4_official, kFloat4, true)
V4NPU_SCORES(fp8, kFloat8, false)
V4NPU_SCORES(fp8_official, kFloat8, true)
#undef V4NPU_SCORES
V4NPU_KERNEL(indexer_scores_fp32, v4npu::cuda::kRowThreads, v4npu::IndexerScoresParams) {
  v4npu::cuda::scores<v4npu::cuda::Format::kFloat32, false>(p);
}
