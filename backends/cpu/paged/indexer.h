// Index scores of query tiles against key tiles, shared by indexer_scores and indexer_topk.
//
// A tile of keys is widened and turned once, so that keys are lanes, and meets the heads of all queries of the tile.
// Thus few heads leave no lane idle and no sum crosses lanes: a dot adds its dims in ascending order, a score its
// heads, whatever the lane, the tile and the other queries. Scratch for 32 queries of 64 heads of 128: queries 1 MiB,
// keys 32 KiB, rows 9 KiB, dots 16 KiB.
#pragma once

#include "paged/rows.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"
#include "v4npu/dtype.h"

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kQueryTile = 32;
constexpr int64_t kKeyTile = 4 * kLanes;
constexpr int64_t kColumnsAtOnce = 64;  // heads, of as many queries as it takes: their dots stay in the first cache

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

// What multiplies one lane: values, or pairs of bf16 in the bits of a float.
template <class T>
V4NPU_INLINE int64_t steps_of(int64_t dim) {
  return kLane<T> == Lane::kPair ? (dim + 1) / 2 : dim;
}

// Where the parts of a tile lie in scratch; in floats.
struct IndexerTile {
  float* q;                                     // [queries * heads, steps]
  float* weights;                               // [queries * heads]
  float* rows;                                  // of 16 keys, as they lie
  float* keys;                                  // [groups of 16 keys, steps, 16]
  float* dots;                                  // [columns, keys]
  int64_t heads, steps, padded, row, together;  // together: queries whose heads meet the keys at once

  static inline __attribute__((always_inline)) int64_t size(int64_t heads, int64_t dim) {
    const int64_t padded = whole_vectors(dim);
    return kQueryTile * heads * (padded + 1) + kLanes * tile_stride(dim) + kKeyTile * (padded + at_once(heads) * heads);
  }
  static inline __attribute__((always_inline)) int64_t at_once(int64_t heads) {
    return heads > 0 && heads < kColumnsAtOnce ? kColumnsAtOnce / heads : 1;
  }
  inline __attribute__((always_inline)) IndexerTile(float* memory, int64_t num_heads, int64_t dim, int64_t num_steps)
      : q(memory),
        heads(num_heads),
        steps(num_steps),
        padded(whole_vectors(num_steps)),
        row(tile_stride(dim)),
        together(at_once(num_heads)) {
    weights = q + kQueryTile * heads * padded;
    rows = weights + kQueryTile * heads;
    keys = rows + kLanes * row;
    dots = keys + kKeyTile * padded;
  }
};

template <class T, class Params>
V4NPU_INLINE void load_queries(const Params& p, const QueryTile& t, const IndexerTile& tile) {
  const int64_t at = t.token * p.num_heads, columns = t.count * p.num_heads, dim = p.head_dim;
  const T* q = static_cast<const T*>(p.q) + at * dim;
  for (int64_t c = 0; c < columns; ++c) {
    float* to = tile.q + c * tile.padded;
    if constexpr (kLane<T> == Lane::kPair) {
      to[tile.steps - 1] = 0.0f;  // beside the last of an odd number of dims
      std::memcpy(to, q + c * dim, static_cast<size_t>(dim) * sizeof(T));
    } else {
      for (int64_t d = 0; d < dim; d += kLanes) store_upto(to + d, load_upto(q + c * dim + d, dim - d), dim - d);
    }
    tile.weights[c] = widen(static_cast<const T*>(p.weights)[at + c]);
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
  for (int64_t begin = 0; begin < n; begin += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) {
      float* key = tile.rows + k * tile.row;
      if (begin + k >= n) {
        std::memset(key, 0, static_cast<size_t>(tile.row) * sizeof(float));
        continue;
      }
      widen_key<T>(row_at(rows, first + begin + k), p.packed, p.head_dim, key);
      if constexpr (kLane<T> == Lane::kPair) pair_row(key, p.head_dim, key);  // in place: writes behind what it reads
    }
    turn_rows(tile.rows, tile.row, tile.padded, tile.keys + begin * tile.padded);
  }
}

// out[column][key] of COLUMNS heads and VECTORS groups of keys, summed in ascending order.
template <Lane L, int COLUMNS, int VECTORS>
static void dots(const IndexerTile& tile, const float* q, const float* keys, float* out) {
  for (int64_t first = 0; first < tile.steps; first += kDotDims) {
    const int64_t end = first + kDotDims < tile.steps ? first + kDotDims : tile.steps;
    f32x16 sum[COLUMNS][VECTORS];
    for (int c = 0; c < COLUMNS; ++c) {
      for (int v = 0; v < VECTORS; ++v) sum[c][v] = zero();
    }
    for (int64_t d = first; d < end; ++d) {
      f32x16 key[VECTORS];
      for (int v = 0; v < VECTORS; ++v) key[v] = load(keys + (v * tile.padded + d) * kLanes);
      for (int c = 0; c < COLUMNS; ++c) {
        const f32x16 head = set1(q[c * tile.padded + d]);
        for (int v = 0; v < VECTORS; ++v) sum[c][v] = multiply_add<L>(key[v], head, sum[c][v]);
      }
    }
    for (int c = 0; c < COLUMNS; ++c) {
      for (int v = 0; v < VECTORS; ++v) {
        float* to = out + c * kKeyTile + v * kLanes;
        store(to, first == 0 ? sum[c][v] : load(to) + sum[c][v]);
      }
    }
  }
}

// Of all columns from `first` on, with the groups of keys from `key` on.
template <Lane L, int VECTORS>
V4NPU_INLINE void dots_of_columns(const IndexerTile& tile, int64_t first, int64_t columns, int64_t key) {
  const float *q = tile.q + first * tile.padded, *keys = tile.keys + key * tile.padded;
  float* out = tile.dots + key;
  int64_t c = 0;  // 6 columns: with 4 groups of keys 24 sums in 32 registers, with one 6 in 8
  for (; c + 6 <= columns; c += 6) dots<L, 6, VECTORS>(tile, q + c * tile.padded, keys, out + c * kKeyTile);
  for (; c + 2 <= columns; c += 2) dots<L, 2, VECTORS>(tile, q + c * tile.padded, keys, out + c * kKeyTile);
  if (c < columns) dots<L, 1, VECTORS>(tile, q + c * tile.padded, keys, out + c * kKeyTile);
}

// 1 dot: the columns from `first` on with the first n keys.
template <class T>
V4NPU_INLINE void dots_of_tile(const IndexerTile& tile, int64_t first, int64_t columns, int64_t n) {
  if (kRegisters >= 32 && n > kKeyTile - kLanes) return dots_of_columns<kLane<T>, 4>(tile, first, columns, 0);
  for (int64_t k = 0; k < n; k += kLanes) dots_of_columns<kLane<T>, 1>(tile, first, columns, k);
}

// Steps 2 to 4 for one query and VECTORS groups of keys. R is the dtype that dot, product and sum are rounded to.
template <class R, int VECTORS>
V4NPU_INLINE void sum_heads(const float* dots, const float* weights, int64_t heads, float* scores) {
  f32x16 sum[VECTORS];
  for (int v = 0; v < VECTORS; ++v) sum[v] = zero();
  for (int64_t h = 0; h < heads; ++h) {
    const f32x16 weight = set1(weights[h]);
    for (int v = 0; v < VECTORS; ++v) {
      const f32x16 dot = rounded<R>(load(dots + h * kKeyTile + v * kLanes));
      sum[v] = sum[v] + rounded<R>(max(zero(), dot) * weight);  // 2 relu, times weights; NaN passes   3 sum over heads
    }
  }
  for (int v = 0; v < VECTORS; ++v) store(scores + v * kLanes, rounded<R>(sum[v]));  // 4 widen
}

// Entries that the query at `position` sees.
V4NPU_INLINE int64_t visible(int64_t position, int64_t ratio) { return (position + 1) / ratio; }

// each(query of the tile, first key, how many of the tile's keys it sees, their scores) over the keys [lo, hi) of a
// query tile, in ascending order. lo is a multiple of kKeyTile; scores has whole vectors.
template <class T, class R, class Params, class Each>
V4NPU_INLINE void walk(const Params& p, const QueryTile& t, int64_t lo, int64_t hi, float* memory, const Each& each) {
  const IndexerTile tile(memory, p.num_heads, p.head_dim, steps_of<T>(p.head_dim));
  float scores[kKeyTile];
  int64_t known[kQueryTile];
  for (int64_t i = 0; i < t.count; ++i) {  // 5 mask
    const int64_t all = visible(t.position + i, p.ratio);
    known[i] = all < hi ? all : hi;
  }
  load_queries<T>(p, t, tile);
  for (int64_t first = lo; first < hi; first += kKeyTile) {
    const auto seen = [&](int64_t i) { return known[i] - first < kKeyTile ? known[i] - first : kKeyTile; };
    load_keys<T>(p, t.b, first, hi - first < kKeyTile ? hi - first : kKeyTile, tile);
    for (int64_t group = 0; group < t.count; group += tile.together) {
      const int64_t end = group + tile.together < t.count ? group + tile.together : t.count;
      if (seen(end - 1) <= 0) continue;
      dots_of_tile<T>(tile, group * tile.heads, (end - group) * tile.heads, seen(end - 1));
      for (int64_t i = group; i < end; ++i) {
        const int64_t n = seen(i);
        if (n <= 0) continue;
        const float *dots = tile.dots + (i - group) * tile.heads * kKeyTile, *weights = tile.weights + i * tile.heads;
        if (n > kKeyTile - kLanes) {
          sum_heads<R, 4>(dots, weights, tile.heads, scores);
        } else {
          for (int64_t k = 0; k < n; k += kLanes) sum_heads<R, 1>(dots + k, weights, tile.heads, scores + k);
        }
        each(i, first, n, scores);
      }
    }
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
