// The search for the best index keys of a query, whatever the architecture: a block goes through a part of them.
#pragma once

#include "indexer.cuh"
#include "topk.cuh"

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

// The one or the other, of list `part` of `parts` that token t has.
V4NPU_INLINE void hand_on(const IndexerTopkParams& p, int64_t t, uint64_t* lists, int64_t parts, int64_t part,
                          Best& best) {
  if (parts == 1) return write(p, t, best);
  leave(lists + (t * parts + part) * p.topk, p.topk, best);
}

struct Nothing {
  template <class... Any>
  V4NPU_INLINE explicit Nothing(const Any&...) {}
};

// The best of part block_y() of `parts` of the keys of token block_x().
template <Format K, bool Official>
V4NPU_INLINE void search_part(const IndexerTopkParams& p, int64_t parts, int stages, Best& best) {
  constexpr bool kPacked = K == Format::kFloat4 || K == Format::kFloat8;
  const int64_t t = block_x(), part = block_y();
  const QueryPlace place = place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t);
  const int64_t visible = visible_entries(p, place);
  const int64_t step = ceil_div(ceil_div(visible, parts), kRowThreads) * kRowThreads;
  const int64_t end = (part + 1) * step < visible ? (part + 1) * step : visible;
  const int g = lane_id() / 4, c = lane_id() % 4;
  typename Choice<kPacked, StagedKeys<K>, Nothing>::Type keys(p, place.sequence, part * step + warp_id() * kWarpKeys,
                                                              end, stages);
  for (int64_t tile = part * step; tile < end; tile += kRowThreads) {
    const int64_t first = tile + warp_id() * kWarpKeys;
    int64_t key = first + g / 2 * 8 + 2 * c + g % 2;  // a key to a lane
    float score = 0.0f;
    if constexpr (K == Format::kFloat32) {
      key = first + lane_id();
      score = float_score(p, t, PageKeys<K>::row(p, place.sequence, key, end));
    } else if (first < end) {
      float total[kKeyTiles][2];
      if constexpr (kPacked) {
        keys.next(p, place.sequence, first, end);
        key_scores<Official>(p, t, keys, total);  // 1 to 5
      } else {
        key_scores<Official>(p, t, PageKeys<K>(p, place.sequence, first, end), total);
      }
      V4NPU_UNROLL
      for (int i = 0; i < 2 * kKeyTiles; ++i) score = g == i ? total[i / 2][i % 2] : score;
    }
    best.add(key < end ? candidate(score, key) : 0);
  }
}

}  // namespace v4npu::cuda
