// Index scores of query tiles against key tiles, shared by indexer_scores and indexer_topk.
//
// A tile of keys is widened and turned once, so that keys are lanes, and meets the heads of all queries of the tile.
// Thus few heads leave no lane idle and no sum crosses lanes: a dot adds its dims in ascending order, a score its
// heads by sixteen, whatever the lane, the tile and the other queries. Scratch for 32 queries of 64 heads of 128:
// queries 1 MiB, keys 16 KiB, rows 9 KiB, dots 8 KiB.
#pragma once

#include "paged/rows.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"
#include "v4npu/dtype.h"

#ifdef __AVX512BF16__
#include "paged/indexer_fp4.h"
#endif
#ifdef V4NPU_HAS_AMX
#include "paged/indexer_amx.h"
#endif

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kMostQueries = 32;      // of a tile, whatever the plan says
constexpr int64_t kKeyTile = 2 * kLanes;  // with the heads of a query they stay in the first cache
constexpr int64_t kLine = 64;             // bytes of a cache line
constexpr int64_t kSpare = 31;            // columns that a matrix unit reads and writes behind the last
constexpr int64_t kColumnsAtOnce = 64;    // heads, of as many queries as it takes: their dots stay in the first cache

// Queries of one sequence: tokens [token, token + count), the first at `position`.
struct QueryTile {
  int64_t b, token, count, position;
};

// Tile i of the call; tiles never straddle sequences.
template <class Params>
V4NPU_INLINE QueryTile query_tile(const Params& p, int64_t i) {
  for (int64_t b = 0;; ++b) {
    const int64_t first = p.cu_seqlens_q[b], length = p.cu_seqlens_q[b + 1] - first;
    const int64_t tiles = (length + p.query_tile - 1) / p.query_tile;
    if (i < tiles) {
      const int64_t at = i * p.query_tile, rest = length - at;
      return {b, first + at, rest < p.query_tile ? rest : p.query_tile, p.start_pos[b] + at};
    }
    i -= tiles;
  }
}
template <class Params>
V4NPU_INLINE int64_t query_tiles(const Params& p) {
  int64_t tiles = 0;
  for (int64_t b = 0; b < p.num_seqs; ++b) {
    tiles += (p.cu_seqlens_q[b + 1] - p.cu_seqlens_q[b] + p.query_tile - 1) / p.query_tile;
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
  float* scores;                                // [queries at once, keys]
  int64_t heads, steps, padded, row, together;  // together: queries whose heads meet the keys at once

  V4NPU_INLINE int64_t size(int64_t queries, int64_t heads, int64_t dim) {
    const int64_t padded = whole_vectors(dim), once = at_once(heads) * heads;
    return queries * heads * (padded + 1) + kSpare * padded + kLanes * tile_stride(dim) +
           kKeyTile * (padded + once + kSpare + at_once(heads));
  }
  V4NPU_INLINE int64_t at_once(int64_t heads) {
    const int64_t queries = heads > 0 ? kColumnsAtOnce / heads : 0;
    return queries < 1 ? 1 : queries < kMostQueries ? queries : kMostQueries;
  }
  V4NPU_MEMBER IndexerTile(float* memory, int64_t queries, int64_t num_heads, int64_t dim, int64_t num_steps)
      : q(memory),
        heads(num_heads),
        steps(num_steps),
        padded(whole_vectors(num_steps)),
        row(tile_stride(dim)),
        together(at_once(num_heads)) {
    weights = q + (queries * heads + kSpare) * padded;
    rows = weights + queries * heads;
    keys = rows + kLanes * row;
    dots = keys + kKeyTile * padded;
    scores = dots + kKeyTile * (together * heads + kSpare);
  }
};

template <class T, class Params>
V4NPU_INLINE void load_queries(const Params& p, const QueryTile& t, const IndexerTile& tile) {
  const int64_t at = t.token * p.num_heads, columns = t.count * p.num_heads, dim = p.head_dim;
  const T* q = static_cast<const T*>(p.q) + at * dim;
  for (int64_t c = 0; c < columns; ++c) {
    float* to = tile.q + c * tile.padded;
    if constexpr (kLane<T> == Lane::kPair) {
      std::memset(to, 0, static_cast<size_t>(tile.padded) * sizeof(float));
      std::memcpy(to, q + c * dim, static_cast<size_t>(dim) * sizeof(T));
    } else {
      for (int64_t d = 0; d < dim; d += kLanes) store_upto(to + d, load_upto(q + c * dim + d, dim - d), dim - d);
    }
    tile.weights[c] = widen(static_cast<const T*>(p.weights)[at + c]);
  }
}

// Keys [first, first + n), where those before `end` will follow.
template <class T, class Params>
V4NPU_INLINE void load_keys(const Params& p, int64_t b, int64_t first, int64_t n, int64_t end,
                            const IndexerTile& tile) {
  const RowFormat format = key_row<T>(p.key_format, p.head_dim);
  const RowSource rows{static_cast<const uint8_t*>(p.keys), p.block_table + b * p.max_blocks, p.block_size,
                       p.block_stride, format};
  // Rows that are whole vectors of what is multiplied are turned where they lie.
  constexpr int64_t kWhole = kLane<T> == Lane::kPair ? 2 * kLanes : kLanes;
  const bool lying = p.key_format == KeyFormat::kPlain && p.head_dim % kWhole == 0 &&
                     (kLane<T> == Lane::kPair || sizeof(T) == sizeof(float));
  for (int64_t begin = 0; begin < n; begin += kLanes) {
    RowAt at[kLanes];
    const int64_t ahead = first + begin + kKeyTile;  // pages lie anywhere: nothing else fetches what comes next
    if (ahead < end) {
      rows_at(rows, ahead, end - ahead, at);
      for (const RowAt& row : at) {
        for (int64_t i = 0; i < format.payload; i += kLine) __builtin_prefetch(row.payload + i);
      }
      if (format.scales > 0) __builtin_prefetch(at[0].scales);
    }
    rows_at(rows, first + begin, n - begin, at);
    const float* key[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) key[k] = reinterpret_cast<const float*>(at[k].payload);
    float* to = tile.keys + begin * tile.padded;
#ifdef __AVX512BF16__
    if (kLane<T> == Lane::kPair && p.key_format == KeyFormat::kFp4 && p.head_dim % 128 == 0 &&
        turn_fp4(at, p.head_dim, to)) {
      continue;
    }
#endif
    for (int64_t k = 0; k < kLanes && !lying; ++k) {
      float* wide = tile.rows + k * tile.row;
      widen_key<T>(at[k], p.key_format, p.head_dim, wide);
      if constexpr (kLane<T> == Lane::kPair) pair_row(wide, p.head_dim, wide);  // in place: writes behind what it reads
      key[k] = wide;
    }
    turn_rows(key, tile.padded, to);
  }
}

// out[column][key] of COLUMNS heads and VECTORS groups of keys, summed in ascending order.
template <Lane L, int COLUMNS, int VECTORS>
static void dots(const IndexerTile& tile, const float* q, const float* keys, float* out) {
  int64_t first = 0;
  do {  // once if there is nothing to sum: 0
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
    first += kDotDims;
  } while (first < tile.steps);
}

// Of all columns from `first` on, with the groups of keys from `key` on.
template <Lane L, int VECTORS>
V4NPU_INLINE void dots_of_columns(const IndexerTile& tile, int64_t first, int64_t columns, int64_t key) {
  const float *q = tile.q + first * tile.padded, *keys = tile.keys + key * tile.padded;
  float* out = tile.dots + key;
  in_steps<VECTORS == 2 ? 12 : 6>(columns, [&](auto number, int64_t c) __attribute__((always_inline)) {
    dots<L, number, VECTORS>(tile, q + c * tile.padded, keys,
                             out + c * kKeyTile);  // 24 sums in 32 registers, or 6 in 8
  });
}

// 1 dot: the columns from `first` on with the first n keys.
template <class T>
V4NPU_INLINE void dots_of_tile(const IndexerTile& tile, int64_t first, int64_t columns, int64_t n) {
#ifdef V4NPU_HAS_AMX
  if constexpr (kLane<T> == Lane::kPair) {
    for (int64_t c = 0; c < columns; c += 2 * kLanes) {
      tile_dots(tile.q + (first + c) * tile.padded, tile.padded, tile.keys, tile.dots + c * kKeyTile);
    }
    return;
  }
#endif
  if (kRegisters >= 32 && n > kKeyTile - kLanes) return dots_of_columns<kLane<T>, 2>(tile, first, columns, 0);
  for (int64_t k = 0; k < n; k += kLanes) dots_of_columns<kLane<T>, 1>(tile, first, columns, k);
}

// v rounded to R by additions that leave no bit for the rest: NaN from 2^111 on, and v itself below 2^-126.
template <class R>
V4NPU_INLINE f32x16 quickly_rounded(f32x16 v) {
  if constexpr (sizeof(R) == sizeof(float)) return v;
  const f32x16 power = keep_bits(v, 0xff800000);
  return fma(power, set1(-0x1p16f), fma(power, set1(0x1p16f), v));
}

// Steps 2 to 4 for one query and VECTORS groups of keys. R is the dtype that dot, product and sum are rounded to.
template <int VECTORS, class Round>
V4NPU_INLINE void sum_heads(const float* dots, const float* weights, int64_t heads, float* scores, const Round& round) {
  f32x16 sum[VECTORS];
  for (int v = 0; v < VECTORS; ++v) sum[v] = zero();
  for (int64_t first = 0; first < heads; first += kLanes) {
    const int64_t end = first + kLanes < heads ? first + kLanes : heads;
    f32x16 part[VECTORS];
    for (int v = 0; v < VECTORS; ++v) part[v] = zero();
    for (int64_t h = first; h < end; ++h) {
      const f32x16 weight = set1(weights[h]);
      for (int v = 0; v < VECTORS; ++v) {  // 2 relu, times weights; NaN passes   3 sum over heads
        const f32x16 dot = max(zero(), load(dots + h * kKeyTile + v * kLanes));
        part[v] = part[v] + round(round(dot) * weight);
      }
    }
    for (int v = 0; v < VECTORS; ++v) sum[v] = sum[v] + part[v];
  }
  for (int v = 0; v < VECTORS; ++v) store(scores + v * kLanes, round(sum[v]));  // 4 widen
}

// Those of query i again, where quickly_rounded gave NaN.
template <class T, class R>
static void repair(const IndexerTile& tile, int64_t i, int64_t n, float* scores) {
  float exact[kLanes];
  dots_of_tile<T>(tile, i * tile.heads, tile.heads, n);
  for (int64_t k = 0; k < n; ++k) {
    if (k % kLanes == 0) {
      const auto round = [](f32x16 v) { return rounded<R>(v); };
      sum_heads<1>(tile.dots + k, tile.weights + i * tile.heads, tile.heads, exact, round);
    }
    if (scores[k] != scores[k]) scores[k] = exact[k % kLanes];
  }
}

// Steps 1 to 4 for the first n keys and queries [begin, end): tile.scores.
template <class T, class R>
V4NPU_INLINE void score(const IndexerTile& tile, int64_t begin, int64_t end, int64_t n) {
  const int64_t first = begin * tile.heads, columns = (end - begin) * tile.heads;
  const float* weights = tile.weights + first;
#ifdef V4NPU_HAS_AMX
  if (kLane<T> == Lane::kPair && tile.heads % kLanes == 0 && tile.heads > 0) {
    tile_scores(tile.q + first * tile.padded, tile.padded, tile.keys, weights, tile.heads, columns, tile.dots,
                tile.scores, [](f32x16 v) __attribute__((always_inline)) { return quickly_rounded<R>(v); });
  } else
#endif
  {
    dots_of_tile<T>(tile, first, columns, n);
    const auto round = [](f32x16 v) __attribute__((always_inline)) { return quickly_rounded<R>(v); };
    for (int64_t i = 0; i < end - begin; ++i) {
      const float *dots = tile.dots + i * tile.heads * kKeyTile, *w = weights + i * tile.heads;
      float* scores = tile.scores + i * kKeyTile;
      if (n > kKeyTile - kLanes) {
        sum_heads<2>(dots, w, tile.heads, scores, round);
      } else {
        for (int64_t k = 0; k < n; k += kLanes) sum_heads<1>(dots + k, w, tile.heads, scores + k, round);
      }
    }
  }
  for (int64_t i = begin; i < end && sizeof(R) != sizeof(float); ++i) {
    float* scores = tile.scores + (i - begin) * kKeyTile;
    uint32_t broken = 0;
    for (int64_t k = 0; k < n; k += kLanes) broken |= above(load(scores + k), __builtin_inff());
    if (broken != 0) repair<T, R>(tile, i, n, scores);
  }
}

// Entries that the query at `position` sees.
V4NPU_INLINE int64_t visible(int64_t position, int64_t ratio) { return (position + 1) / ratio; }

// each(query of the tile, first key, how many of the tile's keys it sees, their scores) over the keys [lo, hi) of a
// query tile, in ascending order. lo is a multiple of kKeyTile; scores has whole vectors.
template <class T, class R, class Params, class Each>
V4NPU_INLINE void walk(const Params& p, const QueryTile& t, int64_t lo, int64_t hi, float* memory, const Each& each) {
  const IndexerTile tile(memory, p.query_tile, p.num_heads, p.head_dim, steps_of<T>(p.head_dim));
  int64_t known[kMostQueries];
  for (int64_t i = 0; i < t.count; ++i) {  // 5 mask
    const int64_t all = visible(t.position + i, p.ratio);
    known[i] = all < hi ? all : hi;
  }
  load_queries<T>(p, t, tile);
#ifdef V4NPU_HAS_AMX
  tile_configure(kLanes);
#endif
  for (int64_t first = lo; first < hi; first += kKeyTile) {
    const auto seen = [&](int64_t i) { return known[i] - first < kKeyTile ? known[i] - first : kKeyTile; };
    load_keys<T>(p, t.b, first, hi - first < kKeyTile ? hi - first : kKeyTile, hi, tile);
    for (int64_t group = 0; group < t.count; group += tile.together) {
      const int64_t end = group + tile.together < t.count ? group + tile.together : t.count;
      if (seen(end - 1) <= 0) continue;
      score<T, R>(tile, group, end, seen(end - 1));
      for (int64_t i = group; i < end; ++i) {
        if (seen(i) > 0) each(i, first, seen(i), tile.scores + (i - group) * kKeyTile);
      }
    }
  }
#ifdef V4NPU_HAS_AMX
  tile_release();
#endif
}

}  // namespace v4npu::cpu::V4NPU_ISA
