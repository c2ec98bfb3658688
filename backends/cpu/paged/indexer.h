// Index scores of query tiles against key tiles, shared by indexer_scores and indexer_topk.
//
// A tile of keys is widened once and meets all queries of the tile, whose heads are the lanes of the dots. Scratch for
// 8 queries of 64 heads of 128: queries 256 KiB, keys 36 KiB, dots 16 KiB.
#pragma once

#include "paged/rows.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"
#include "v4npu/dtype.h"

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kQueryTile = 8;
constexpr int64_t kKeyTile = 64;

// Queries of one sequence: tokens [token, token + count), the first at `position`.
struct QueryTile {
  int64_t b, token, count, position;
};

// Tile i of the call; tiles never straddle sequences.
template <class Params>
V4NPU_INLINE QueryTile query_tile(const Params& p, int64_t i) {
  for (int64_t b = 0;; ++b) {
    const int64_t first = p.cu_seqlens_q[b], length = p.cu_seqlens_q[b + 1] - first;
    const int64_t tiles = (length + kQueryTile - 1) / kQueryTile;
    if (i < tiles) {
      const int64_t at = i * kQueryTile, rest = length - at;
      return {b, first + at, rest < kQueryTile ? rest : kQueryTile, p.start_pos[b] + at};
    }
    i -= tiles;
  }
}
template <class Params>
V4NPU_INLINE int64_t query_tiles(const Params& p) {
  int64_t tiles = 0;
  for (int64_t b = 0; b < p.num_seqs; ++b) {
    tiles += (p.cu_seqlens_q[b + 1] - p.cu_seqlens_q[b] + kQueryTile - 1) / kQueryTile;
  }
  return tiles;
}

// Pairs of bf16 where the machine multiplies them: half the instructions, and the same values.
template <class T>
constexpr Lane kLane = has_bf16_dot && sizeof(T) == sizeof(bf16) ? Lane::kPair : Lane::kValue;

// Where the parts of a tile lie in scratch; in floats.
struct IndexerTile {
  float *q, *weights, *keys, *dots;
  int64_t heads, lanes, query;  // lanes: heads in whole vectors; floats of one query

  static inline __attribute__((always_inline)) int64_t size(int64_t heads, int64_t dim) {
    const int64_t lanes = whole_vectors(heads);
    return kQueryTile * lanes * (dim + 1) + kKeyTile * (tile_stride(dim) + lanes);
  }
  inline __attribute__((always_inline)) IndexerTile(float* memory, int64_t num_heads, int64_t dim)
      : q(memory), heads(num_heads), lanes(whole_vectors(num_heads)), query(lanes * dim) {
    weights = q + kQueryTile * query;
    keys = weights + kQueryTile * lanes;
    dots = keys + kKeyTile * tile_stride(dim);
  }
};

template <class T, class Params>
V4NPU_INLINE void load_queries(const Params& p, const QueryTile& t, const IndexerTile& tile) {
  for (int64_t i = 0; i < t.count; ++i) {
    const int64_t at = (t.token + i) * p.num_heads;
    const T* q = static_cast<const T*>(p.q) + at * p.head_dim;
    if constexpr (kLane<T> == Lane::kPair) {
      transpose_pairs(q, p.num_heads, p.head_dim, tile.q + i * tile.query);
    } else {
      transpose_heads(q, p.num_heads, p.head_dim, tile.q + i * tile.query);
    }
    transpose_heads(static_cast<const T*>(p.weights) + at, p.num_heads, 1, tile.weights + i * tile.lanes);
  }
}

template <class T, class Params>
V4NPU_INLINE void load_keys(const Params& p, int64_t b, int64_t first, int64_t n, const IndexerTile& tile) {
  const int64_t payload = p.packed ? p.head_dim / 2 : p.head_dim * static_cast<int64_t>(sizeof(T));
  const int64_t scales = p.packed ? (p.head_dim + kFp4Block - 1) / kFp4Block : 0;
  const RowSource rows{static_cast<const uint8_t*>(p.keys),
                       p.block_table + b * p.max_blocks,
                       p.block_size,
                       p.block_stride,
                       payload,
                       scales};
  for (int64_t k = 0; k < n; ++k) {
    float* key = tile.keys + k * tile_stride(p.head_dim);
    widen_key<T>(row_at(rows, first + k), p.packed, p.head_dim, key);
    if constexpr (kLane<T> == Lane::kPair) pair_row(key, p.head_dim, key);  // in place: it writes behind what it reads
  }
}

// Steps 1 to 4 for query i of the tile and n keys. R is the dtype that dot, product and sum are rounded to.
template <class T, class R>
V4NPU_INLINE void scores_of_tile(const IndexerTile& tile, int64_t i, int64_t n, int64_t dim, float* scores) {
  const int64_t steps = kLane<T> == Lane::kPair ? (dim + 1) / 2 : dim;
  dots_of_tile<kLane<T>>(tile.keys, n, tile_stride(dim), tile.q + i * tile.query, tile.lanes, steps,
                         tile.dots);  // 1 dot
  const float* weights = tile.weights + i * tile.lanes;
  for (int64_t k = 0; k < n; ++k) {
    f32x16 sum = zero();  // lanes without a head add 0, whatever the key
    for (int64_t h = 0; h < tile.lanes; h += kLanes) {
      const f32x16 dot = rounded<R>(load_upto(tile.dots + k * tile.lanes + h, tile.heads - h));
      sum = sum + rounded<R>(max(zero(), dot) * load(weights + h));  // 2 relu, times weights; NaN passes
    }
    scores[k] = rounded<R>(reduce_add(sum));  // 3 sum over heads   4 widen
  }
}

// Entries that the query at `position` sees.
V4NPU_INLINE int64_t visible(int64_t position, int64_t ratio) { return (position + 1) / ratio; }

// each(query of the tile, first key, how many of the tile's keys it sees, their scores) over the keys [lo, hi) of a
// query tile, in ascending order. lo is a multiple of kKeyTile.
template <class T, class R, class Params, class Each>
V4NPU_INLINE void walk(const Params& p, const QueryTile& t, int64_t lo, int64_t hi, float* memory, const Each& each) {
  const IndexerTile tile(memory, p.num_heads, p.head_dim);
  float scores[kKeyTile];
  load_queries<T>(p, t, tile);
  for (int64_t first = lo; first < hi; first += kKeyTile) {
    load_keys<T>(p, t.b, first, hi - first < kKeyTile ? hi - first : kKeyTile, tile);
    for (int64_t i = 0; i < t.count; ++i) {
      const int64_t known = visible(t.position + i, p.ratio), end = known < hi ? known : hi;  // 5 mask
      const int64_t n = end - first < kKeyTile ? end - first : kKeyTile;
      if (n <= 0) continue;
      scores_of_tile<T, R>(tile, i, n, p.head_dim, scores);
      each(i, first, n, scores);
    }
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
