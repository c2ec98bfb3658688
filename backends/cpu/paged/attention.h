// The attention of one query over its own list of rows, shared by window_attention, csa_attention and hca_attention.
//
// A thread takes a query (on AMX several) and a group of its heads, the lanes of the scores: all read a row once.
// The list is walked in blocks of 64 places, in its own order, whoever else is in the batch; of a block the rows that
// exist are gathered and widened into a tile, so that nothing else is ever touched. Scratch for 64 heads of 512:
// q 128 KiB, tile 132 KiB, scores 16 KiB, sums 128 KiB; of pairs tile 68 KiB, pairs 264, scores 64 and sums 128.
#pragma once

#include "paged/attention_pairs.h"
#include "paged/rows.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"
#include "v4npu/dtype.h"

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kPlaces = 64;  // of the list per step of the softmax, by contract
constexpr float kLowest = -0x1.fffffep127f;

// What the three have in common; entries.base is null where there is only a window.
struct Attention {
  const void* q;
  void* out;
  const int32_t *window_table, *block_table, *cu_seqlens_q, *start_pos;
  const int32_t* topk_indices;  // of the entries, where ratio is 0; else every entry that is complete
  const float* sink;
  const int64_t* positions;
  const float* freqs;
  RowSource window_rows, entry_rows;  // less the tables
  int64_t num_tokens, num_heads, head_dim, head_group, max_window_blocks, max_blocks, window, topk, ratio, rope_dim,
      turned_dim;
  float scale;
  bool packed, round_p;
};

template <class Params>
V4NPU_INLINE Attention common(const Params& p) {
  Attention a{};
  a.q = p.q;
  a.out = p.out;
  a.window_table = p.window_table;
  a.cu_seqlens_q = p.cu_seqlens_q;
  a.start_pos = p.start_pos;
  a.sink = p.attn_sink;
  a.num_tokens = p.num_tokens;
  a.num_heads = p.num_heads;
  a.head_dim = p.head_dim;
  a.head_group = p.head_group;
  a.max_window_blocks = p.max_window_blocks;
  a.window = p.window;
  a.rope_dim = p.rope_dim;
  a.positions = p.positions;
  a.freqs = p.freqs;
  a.turned_dim = p.turned_dim;
  a.scale = p.softmax_scale;
  a.packed = p.packed;
  a.round_p = p.official && p.dtype == Dtype::kBfloat16;
  const int64_t element = p.dtype == Dtype::kBfloat16 ? 2 : 4;
  const RowFormat row = p.packed ? fp8_kv_row(p.head_dim, p.rope_dim) : plain_row(p.head_dim, element);
  a.window_rows = {static_cast<const uint8_t*>(p.window_kv), nullptr, p.window_block, p.window_stride, row};
  return a;
}
template <class Params>
V4NPU_INLINE Attention with_entries(const Params& p) {
  Attention a = common(p);
  a.block_table = p.block_table;
  a.max_blocks = p.max_blocks;
  a.entry_rows = a.window_rows;
  a.entry_rows.base = static_cast<const uint8_t*>(p.compressed_kv);
  a.entry_rows.block_size = p.block_size;
  a.entry_rows.stride = p.block_stride;
  return a;
}

// One query's list: `window` places, then its entries.
struct List {
  RowSource window, entries;
  int64_t position, first, seen;  // of the window: its oldest position, and how many there are
  int64_t left;                   // queries of its sequence from this one on
  int64_t width, places;          // of the window part, of the whole
  const int32_t* picks;
};

V4NPU_INLINE List list_of(const Attention& a, int64_t token) {
  int64_t b = 0;
  while (token >= a.cu_seqlens_q[b + 1]) ++b;
  List l{a.window_rows, a.entry_rows, 0, 0, 0, a.cu_seqlens_q[b + 1] - token, 0, 0, nullptr};
  l.position = a.start_pos[b] + token - a.cu_seqlens_q[b];
  l.first = l.position - a.window + 1 > 0 ? l.position - a.window + 1 : 0;
  l.seen = l.position + 1 - l.first;
  l.window.table = a.window_table + b * a.max_window_blocks;
  l.width = a.window;
  l.places = a.window;
  if (a.entry_rows.base == nullptr) return l;
  l.entries.table = a.block_table + b * a.max_blocks;
  l.picks = a.ratio > 0 ? nullptr : a.topk_indices + token * a.topk;
  l.places += a.ratio > 0 ? (l.position + 1) / a.ratio : a.topk;
  return l;
}

// The rows that exist among the places [begin, end).
template <class Each>
V4NPU_INLINE void each_row(const List& l, int64_t begin, int64_t end, const Each& each) {
  for (int64_t place = begin; place < end && place < l.places; ++place) {
    const bool entry = place >= l.width;
    int64_t i = l.first + place;
    if (entry) i = l.picks == nullptr ? place - l.width : l.picks[place - l.width];
    if (entry ? i < 0 : place >= l.seen) continue;
    each(row_at(entry ? l.entries : l.window, i));
  }
}

V4NPU_INLINE int64_t rows_of(const List& l, int64_t begin, int64_t end, RowAt* rows) {
  int64_t n = 0;
  each_row(l, begin, end, [&](RowAt row) __attribute__((always_inline)) { rows[n++] = row; });
  return n;
}

// Rows that an index picks lie anywhere: those of the places [begin, end), which come next, are on their way while
// others are worked on. Loads wait behind many prefetches, so where there are products to put between they go singly.
struct RowsAhead {
  RowAt rows[kPlaces];
  int64_t count = 0, bytes, row = 0, at = 0;

  V4NPU_MEMBER RowsAhead(const Attention& a, const List& l, int64_t begin, int64_t end)
      : bytes(a.entry_rows.format.payload) {
    if (l.picks == nullptr) return;
    count = rows_of(l, begin, end, rows);
    for (int64_t i = 0; i < count && a.packed; ++i) __builtin_prefetch(rows[i].scales, 0, 2);
  }
  V4NPU_MEMBER void fetch_line() {
    if (row == count) return;
    __builtin_prefetch(rows[row].payload + at, 0, 2);
    at += 64;
    if (at < bytes) return;
    at = 0;
    ++row;
  }
  V4NPU_MEMBER void fetch_all() {
    while (row < count) fetch_line();
  }
};

V4NPU_INLINE void start(int64_t lanes, float* peak, float* total) {
  for (int64_t h = 0; h < lanes; h += kLanes) {
    store(peak + h, set1(kLowest));
    store(total + h, zero());
  }
}

// 6 sink: it joins the denominator only.
V4NPU_INLINE void add_sink(const Attention& a, int64_t head, int64_t heads, int64_t lanes, const float* peak,
                           float* total) {
  if (a.sink == nullptr) return;
  for (int64_t h = 0; h < lanes; h += kLanes) {
    const f32x16 sink = h < heads ? load_upto(a.sink + head + h, heads - h) : zero();
    store(total + h, load(total + h) + exp(sink - load(peak + h)));
  }
}

// 8 rope, inverse, of the heads [head, head + heads) of a token, in place; 2 * turned_dim floats of memory.
template <class T>
V4NPU_INLINE void turn_back(const Attention& a, int64_t token, int64_t head, int64_t heads, float* memory) {
  float *cosines = memory, *sines = memory + a.turned_dim;
  angles(a.positions[token], a.freqs, a.turned_dim, true, cosines, sines);
  T* out = static_cast<T*>(a.out) + (token * a.num_heads + head + 1) * a.head_dim - a.turned_dim;
  for (int64_t h = 0; h < heads; ++h) turn(out + h * a.head_dim, cosines, sines, a.turned_dim, out + h * a.head_dim);
}

// What is multiplied: values, or pairs of bfloat16 (Lane::kPair) where probabilities are rounded to it. Pairs of dims
// make scores, of q where it lies and the rows; pairs of rows make sums, of probabilities [n / 2, lanes] in the bits of
// floats and `pairs`.
struct State {
  float *q, *tile, *pairs, *scores, *sums, *peak, *total, *rescale;
  int64_t lanes, row;  // heads and dims in whole vectors
};

template <class T>
V4NPU_INLINE const T* heads_at(const Attention& a, int64_t token, int64_t head) {
  return static_cast<const T*>(a.q) + (token * a.num_heads + head) * a.head_dim;
}

// Floats of q when it is loaded, of `places` rows of a tile, and of their pairs.
template <Lane L>
V4NPU_INLINE int64_t size_of_q(int64_t lanes, int64_t head_dim) {
  return L == Lane::kPair ? 0 : lanes * head_dim;
}
template <Lane L>
V4NPU_INLINE int64_t size_of_tile(int64_t places, int64_t dims) {
  return places * tile_stride(L == Lane::kPair ? (dims + 1) / 2 : dims);
}
template <Lane L>
V4NPU_INLINE int64_t size_of_pairs(int64_t places, int64_t dims) {
  return L == Lane::kPair ? places / 2 * tile_stride(dims) : 0;
}

// 1 load q: heads become lanes.
template <class T, Lane L>
V4NPU_INLINE void load_q(const Attention& a, int64_t token, int64_t head, int64_t heads, const State& s) {
  if constexpr (L == Lane::kValue) transpose_heads(heads_at<T>(a, token, head), heads, s.lanes, a.head_dim, s.q);
}

// 2 gather kv: the dims [begin, end) of n rows, into the tile or as pairs.
template <class T, Lane L>
V4NPU_INLINE void gather(const Attention& a, const RowAt* rows, int64_t n, int64_t begin, int64_t end, const State& s) {
  const int64_t keep = a.head_dim - a.rope_dim, stride = tile_stride(end - begin);
  if constexpr (L == Lane::kPair) {
    pair_rows({rows, n, a.packed, keep}, begin, end, reinterpret_cast<bf16*>(s.tile), s.pairs);
  } else {
    for (int64_t k = 0; k < n; ++k) widen_kv<T>(rows[k], a.packed, keep, begin, end, s.tile + k * stride);
  }
}

// 2 gather kv   3 scores [n, lanes]
template <class T, Lane L>
V4NPU_INLINE void score(const Attention& a, const RowAt* rows, int64_t n, int64_t token, int64_t head, int64_t heads,
                        const State& s, RowsAhead& ahead) {
  if constexpr (L == Lane::kPair) {
    ahead.fetch_all();
    dots_of_rows({rows, n, a.packed, a.head_dim - a.rope_dim},
                 {heads_at<T>(a, token, head), heads, s.lanes, a.head_dim}, s.tile, s.pairs, s.scores);
  } else {
    if (kRegisters < 32) ahead.fetch_all();
    gather<T, L>(a, rows, n, 0, a.head_dim, s);
    dots_of_tile(s.tile, n, tile_stride(a.head_dim), s.q, s.lanes, a.head_dim, s.scores, ahead);
    ahead.fetch_all();
  }
}

// 4 online softmax, for 16 heads: scores [n, lanes] become probabilities.
template <Lane L>
V4NPU_INLINE void softmax(const Attention& a, const State& s, int64_t h, int64_t n) {
  if (n == 0) return;
  const f32x16 scale = set1(a.scale), old = load(s.peak + h);
  f32x16 peak = old;
  for (int64_t k = 0; k < n; ++k) peak = max(peak, load(s.scores + k * s.lanes + h) * scale);
  const f32x16 rescale = exp(old - peak);
  f32x16 total = load(s.total + h) * rescale;
  const auto weigh = [&](int64_t k) __attribute__((always_inline)) {
    const f32x16 p = exp(load(s.scores + k * s.lanes + h) * scale - peak);
    total = total + p;
    return p;
  };
  if constexpr (L == Lane::kPair) {
    for (int64_t k = 0; k < n; k += 2) {
      const f32x16 even = weigh(k), odd = k + 1 < n ? weigh(k + 1) : zero();
      store(s.scores + k / 2 * s.lanes + h, pair_up(even, odd));
    }
  } else {
    for (int64_t k = 0; k < n; ++k) {
      const f32x16 p = weigh(k);
      store(s.scores + k * s.lanes + h, a.round_p ? rounded<bf16>(p) : p);
    }
  }
  store(s.peak + h, peak);
  store(s.total + h, total);
  store(s.rescale + h, rescale);
}

// What accumulate() takes of 64 places: n rows, or pairs of rows, [n, lanes] probabilities, and the factors of the sums
// before them.
struct Weighed {
  const float *rows, *scores, *rescale;
  int64_t n;
};

template <Lane L>
constexpr int64_t kHeld = L == Lane::kPair ? 4 : 1;  // such that sums meet at once: each time they come from memory

// The state with the memory of the i-th of them.
template <Lane L>
V4NPU_INLINE State held_at(State s, int64_t i) {
  s.scores += i * kPlaces * s.lanes;
  s.rescale += i * s.lanes;
  s.pairs += i * size_of_pairs<L>(kPlaces, s.row);
  return s;
}

template <Lane L>
V4NPU_INLINE Weighed weighed(const State& s, int64_t n) {
  if constexpr (L == Lane::kPair) return {s.pairs, s.scores, s.rescale, (n + 1) / 2};
  return {s.tile, s.scores, s.rescale, n};
}

// 5 accumulate: sums of HEADS heads and 16 * VECTORS dims.
template <Lane L, int HEADS, int VECTORS>
static void accumulate(const State& s, int64_t h, int64_t d, const Weighed* held, int64_t count) {
  const int64_t row = s.row, lanes = s.lanes, stride = tile_stride(row);
  float* const sums = s.sums + h * row + d;
  f32x16 sum[HEADS][VECTORS];
  const auto each = [&](const auto& f) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int i = 0; i < HEADS; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) f(i, v);
    }
  };
  each([&](int i, int v) __attribute__((always_inline)) { sum[i][v] = load(sums + i * row + v * kLanes); });
  for (const Weighed* block = held; block < held + count; ++block) {
    const float *rescale = block->rescale + h, *p = block->scores + h, *values = block->rows + d;
    each([&](int i, int v) __attribute__((always_inline)) { sum[i][v] = sum[i][v] * set1(rescale[i]); });
    for (int64_t k = 0; k < block->n; ++k, p += lanes, values += stride) {
      f32x16 of_row[VECTORS];
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) of_row[v] = load(values + v * kLanes);
      each([&](int i, int v)
               __attribute__((always_inline)) { sum[i][v] = multiply_add<L>(set1(p[i]), of_row[v], sum[i][v]); });
    }
  }
  each([&](int i, int v) __attribute__((always_inline)) { store(sums + i * row + v * kLanes, sum[i][v]); });
}

template <Lane L, int VECTORS>
V4NPU_INLINE void accumulate_heads(const State& s, int64_t heads, int64_t d, const Weighed* held, int64_t count) {
  in_steps<6>(heads, [&](auto number, int64_t h)
                         __attribute__((always_inline)) { accumulate<L, number, VECTORS>(s, h, d, held, count); });
}

template <Lane L>
V4NPU_INLINE void accumulate_all(const State& s, int64_t heads, const Weighed* held, int64_t count) {
  int64_t d = 0;
  for (; kRegisters >= 32 && d + 4 * kLanes <= s.row; d += 4 * kLanes) accumulate_heads<L, 4>(s, heads, d, held, count);
  for (; d < s.row; d += kLanes) accumulate_heads<L, 1>(s, heads, d, held, count);
}

// 7 one rounding: `dims` of each head, which lie `stride` apart.
template <class T>
V4NPU_INLINE void store_out(const State& s, int64_t heads, T* out, int64_t stride, int64_t dims) {
  for (int64_t h = 0; h < heads; ++h) {
    const f32x16 total = set1(s.total[h]);
    for (int64_t d = 0; d < dims; d += kLanes) {
      store_upto(out + h * stride + d, load(s.sums + h * s.row + d) / total, dims - d);
    }
  }
}

// What attends on one thread: the heads [head, head + heads) of a token, at most `group` of them.
template <class T, Lane L>
struct VectorWorker {
  using Value = T;
  const Attention& a;
  State s{};

  V4NPU_INLINE int64_t bytes(const Attention& a, int64_t group) {
    const int64_t lanes = whole_vectors(group), row = whole_vectors(a.head_dim);
    const int64_t held = kHeld<L> * (kPlaces * lanes + lanes + size_of_pairs<L>(kPlaces, row));
    return 4 * (size_of_q<L>(lanes, a.head_dim) + size_of_tile<L>(kPlaces, row) + held + lanes * row + 2 * lanes);
  }
  V4NPU_MEMBER VectorWorker(const Attention& attention, int64_t group, void* memory) : a(attention) {
    s.lanes = whole_vectors(group);
    s.row = whole_vectors(a.head_dim);
    s.q = static_cast<float*>(memory);
    s.tile = s.q + size_of_q<L>(s.lanes, a.head_dim);
    s.sums = s.tile + size_of_tile<L>(kPlaces, s.row);
    s.peak = s.sums + s.lanes * s.row;
    s.total = s.peak + s.lanes;
    s.scores = s.total + s.lanes;
    s.rescale = s.scores + kHeld<L> * kPlaces * s.lanes;
    s.pairs = s.rescale + kHeld<L> * s.lanes;
  }

  V4NPU_MEMBER void finish() const {}
  V4NPU_INLINE int64_t most_together(const Attention& /*a*/, int64_t /*group*/) { return 1; }
  V4NPU_MEMBER int64_t together(int64_t /*token*/, int64_t /*some*/) const { return 1; }

  V4NPU_MEMBER void attend(int64_t token, int64_t /*count*/, int64_t head, int64_t heads) const {
    const List l = list_of(a, token);
    load_q<T, L>(a, token, head, heads, s);
    start(s.lanes, s.peak, s.total);
    std::memset(s.sums, 0, static_cast<size_t>(s.lanes * s.row) * sizeof(float));
    Weighed held[kHeld<L>];
    int64_t count = 0;
    for (int64_t begin = 0; begin < l.places; begin += kPlaces) {
      RowAt rows[kPlaces];
      const int64_t n = rows_of(l, begin, begin + kPlaces, rows);
      RowsAhead ahead(a, l, begin + kPlaces, begin + 2 * kPlaces);
      if (n == 0) continue;
      const State own = held_at<L>(s, count);
      score<T, L>(a, rows, n, token, head, heads, own, ahead);
      for (int64_t h = 0; h < s.lanes; h += kLanes) softmax<L>(a, own, h, n);
      held[count++] = weighed<L>(own, n);
      if (count < kHeld<L>) continue;
      accumulate_all<L>(s, heads, held, count);
      count = 0;
    }
    accumulate_all<L>(s, heads, held, count);
    add_sink(a, head, heads, s.lanes, s.peak, s.total);
    store_out(s, heads, static_cast<T*>(a.out) + (token * a.num_heads + head) * a.head_dim, a.head_dim, a.head_dim);
  }
};

}  // namespace v4npu::cpu::V4NPU_ISA

#ifdef V4NPU_HAS_AMX
#include "paged/attention_amx.h"
#endif
#include "paged/attention_split.h"

namespace v4npu::cpu::V4NPU_ISA {

// Few queries: their heads are split, so that all threads have work; the rows never are.
template <class Worker>
void attend_all(const Attention& a) {
  int64_t group = a.num_heads < a.head_group ? a.num_heads : a.head_group;
  const int64_t threads = num_threads();
  const bool few = a.num_tokens < 2 * threads;
  if (few && a.num_heads > kLanes) {
    const int64_t share = whole_vectors((a.num_heads + threads - 1) / threads);
    group = share < group ? share : group;
  }
  if (group == 0 || a.num_tokens == 0) return;
  const int64_t groups = (a.num_heads + group - 1) / group, items = a.num_tokens * (few ? groups : 1);
  const int64_t most = Worker::most_together(a, group), fair = a.num_tokens / (2 * threads);
  const int64_t unit = few ? 1 : most < fair ? most : fair;
  const int64_t places = a.window + (a.ratio > 0 ? a.max_blocks * a.entry_rows.block_size : a.topk);
  parallel_shares((items + unit - 1) / unit, (places < 1 << 20 ? places : 1 << 20) * a.head_dim * unit,
                  [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
                    const int64_t last = end * unit < items ? end * unit : items;
                    const int64_t own = Worker::bytes(a, group);
                    auto* memory = static_cast<uint8_t*>(scratch(Scratch::kBody, own + 8 * a.turned_dim));
                    const Worker worker(a, group, memory);
                    for (int64_t i = begin * unit, count = 1; i < last; i += count) {
                      const int64_t token = few ? i / groups : i, first = few ? i % groups * group : 0;
                      count = few ? 1 : worker.together(token, last - i);
                      for (int64_t head = first; head < (few ? first + 1 : a.num_heads); head += group) {
                        const int64_t heads = a.num_heads - head < group ? a.num_heads - head : group;
                        worker.attend(token, count, head, heads);
                        for (int64_t t = token; t < token + count && a.turned_dim > 0; ++t) {
                          turn_back<typename Worker::Value>(a, t, head, heads, reinterpret_cast<float*>(memory + own));
                        }
                      }
                    }
                    worker.finish();
                  });
}

template <class T, Lane L>
V4NPU_INLINE void attend(const Attention& a) {
  if (!attend_split<T, L>(a)) attend_all<VectorWorker<T, L>>(a);
}

V4NPU_INLINE void run(const Attention& a, Dtype dtype) {
  if (dtype == Dtype::kFloat32) return attend<float, Lane::kValue>(a);
#ifdef V4NPU_HAS_AMX
  if (a.round_p) return attend_all<TileWorker>(a);
#endif
  if constexpr (has_bf16_dot) {
    if (a.round_p && a.head_dim % 32 == 0) return attend<bf16, Lane::kPair>(a);
  }
  attend<bf16, Lane::kValue>(a);
}

}  // namespace v4npu::cpu::V4NPU_ISA
