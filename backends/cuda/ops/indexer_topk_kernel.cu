// indexer_topk on CUDA (sm_80 and later), bfloat16 and float32. indexer_topk_<keys>: a block of 8 warps takes a part of
// the keys of a query, 256 at a time (device/indexer.cuh), and keeps the best of them (device/topk.cuh). A query of one
// part is done by that; else indexer_topk_merge, a block to a query, takes the best of its parts. For long prompts
// indexer_scores_tile_... stores the scores of some tokens and keys (plan/gpu.h), and indexer_topk_select, a block to a
// token, takes the best of them as a part.
// Limits: 168 registers, 0 bytes of stack, 32832 bytes of shared memory.
#include "v4npu/ops/indexer_topk.h"

#include "../device/indexer.cuh"
#include "../device/topk.cuh"

namespace v4npu::cuda {

// 6 best first   7 -1 where there are fewer
V4NPU_INLINE void write(const IndexerTopkParams& p, int64_t t, Best& best) {
  best.sort();
  int32_t* out = p.topk_indices + t * p.topk;
  for (int64_t i = thread_id(); i < p.topk; i += kRowThreads)
    out[i] = i < best.count ? index_of(best.space.list[i]) : -1;
}

// A part's best, for indexer_topk_merge.
V4NPU_INLINE void leave(uint64_t* out, int64_t topk, Best& best) {
  best.finish();
  sync_block();
  for (int64_t i = thread_id(); i < topk; i += kRowThreads) out[i] = i < best.count ? best.space.list[i] : 0;
}

template <Format K, bool Official>
V4NPU_DEVICE void search(const TopkSearch& search) {
  const IndexerTopkParams& p = search.call;
  const int64_t t = block_x(), part = block_y();
  const QueryPlace place = place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t);
  const int64_t visible = visible_entries(p, place);
  const int64_t step = ceil_of(ceil_of(visible, search.parts), kRowThreads) * kRowThreads;
  const int64_t end = (part + 1) * step < visible ? (part + 1) * step : visible;
  const int g = lane_id() / 4, c = lane_id() % 4;
  Best best{shared<TopkSpace>(), static_cast<int>(p.topk)};
  for (int64_t tile = part * step; tile < end; tile += kRowThreads) {
    const int64_t first = tile + warp_id() * kWarpKeys;
    int64_t key = first + g / 2 * 8 + 2 * c + g % 2;  // a key to a lane
    float score = 0.0f;
    if constexpr (K == Format::kFloat32) {
      key = first + lane_id();
      score = float_score(p, t, PageKeys<K>::row(p, place.sequence, key, end));
    } else if (first < end) {
      float total[kKeyTiles][2];
      key_scores<Official>(p, t, PageKeys<K>(p, place.sequence, first, end), total);  // 1 to 5
      V4NPU_UNROLL
      for (int i = 0; i < 2 * kKeyTiles; ++i) score = g == i ? total[i / 2][i % 2] : score;
    }
    best.add(key < end ? candidate(score, key) : 0);
  }
  if (search.parts == 1) return write(p, t, best);
  leave(search.best + (t * search.parts + part) * p.topk, p.topk, best);
}

V4NPU_DEVICE void select(const TopkSelect& select) {
  const IndexerTopkParams& p = select.call;
  const int64_t row = block_x(), t = select.first_token + row;
  const int64_t visible = visible_entries(p, place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t));
  const int64_t end = visible < select.end_key ? visible : select.end_key;
  const float* scores = select.scores + row * (select.end_key - select.first_key) - select.first_key;
  Best best{shared<TopkSpace>(), static_cast<int>(p.topk)};
  for (int64_t first = select.first_key; first < end; first += kRowThreads) {
    const int64_t key = first + thread_id();
    best.add(key < end ? candidate(scores[key], key) : 0);
  }
  if (select.parts == 1) return write(p, t, best);
  leave(select.best + (row * select.parts + select.part) * p.topk, p.topk, best);
}

V4NPU_DEVICE void merge(const TopkSearch& search) {
  const IndexerTopkParams& p = search.call;
  const int64_t t = block_x(), all = search.parts * p.topk;
  Best best{shared<TopkSpace>(), static_cast<int>(p.topk)};
  for (int64_t i = thread_id(); i - thread_id() < all; i += kRowThreads)
    best.add(i < all ? search.best[t * all + i] : 0);
  write(p, search.first_token + t, best);
}

}  // namespace v4npu::cuda

#define V4NPU_SEARCH(name, K, official)                                                  \
  V4NPU_KERNEL(indexer_topk_##name, v4npu::cuda::kRowThreads, v4npu::cuda::TopkSearch) { \
    v4npu::cuda::search<v4npu::cuda::Format::K, official>(p);                            \
  }
V4NPU_SEARCH(fp32, kFloat32, false)
V4NPU_SEARCH(plain, kBfloat16, false)
V4NPU_SEARCH(plain_official, kBfloat16, true)
V4NPU_SEARCH(fp4, kFloat4, false)
V4NPU_SEARCH(fp4_official, kFloat4, true)
V4NPU_SEARCH(fp8, kFloat8, false)
V4NPU_SEARCH(fp8_official, kFloat8, true)
#undef V4NPU_SEARCH
V4NPU_KERNEL(indexer_topk_select, v4npu::cuda::kRowThreads, v4npu::cuda::TopkSelect) { v4npu::cuda::select(p); }
V4NPU_KERNEL(indexer_topk_merge, v4npu::cuda::kRowThreads, v4npu::cuda::TopkSearch) { v4npu::cuda::merge(p); }
