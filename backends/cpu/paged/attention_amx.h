// attention.h on AMX tiles, for bfloat16 whose probabilities are rounded: both products of a block of 64 places.
//
//   scores [keys, heads] = rows (left operand) times q (right, turned once per query)
//   sums [heads, dims] += probabilities (left, turned per block) times rows (right, neighbours interleaved)
//
// To decode and interleave a row takes more than half as long as to score and sum it for 64 heads. So neighbouring
// queries of a sequence go together where they see the same rows: those of their windows, which lie decoded side by
// side and of which each query takes its own, and every complete entry where no index picks. That shows in no result.
//
// Sums of a head are scaled in memory when its maximum has grown, which soon becomes rare. Of the operands the first
// cache holds no more than the rows that are scored: q and sums are streamed past it. Scratch for 64 heads of 512: 34
// KiB of rows and 66 of interleaved ones, or 137 and 266 for the windows of two queries; for each query q 64 KiB, sums
// 128 KiB, scores 16 KiB, probabilities 8 KiB.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kTileRows = 32;         // of the 64 that are decoded, scored and interleaved at a time
constexpr int64_t kTileValues = 16 * 32;  // of bf16
constexpr int64_t kTileSums = 16 * 16;    // of float
constexpr int64_t kHeadsTogether = 128;   // of all queries that go together: q and sums are in the second cache
constexpr int64_t kSharedWindow = 256;    // at most: likewise its rows

// The n values at p and zeros behind them, in groups of 32.
V4NPU_INLINE void copy_groups(const bf16* p, int64_t n, bf16* out) {
  for (int64_t i = 0; i < n; i += 32, out += 32) {
    const auto some = static_cast<__mmask32>(n - i >= 32 ? 0xffffffff : (1u << (n - i)) - 1);
    _mm512_storeu_si512(out, _mm512_maskz_loadu_epi16(some, p + i));
  }
}

// Groups of 32 dims.
V4NPU_INLINE int64_t steps_of(const Attention& a) { return (a.head_dim + 31) / 32; }

// Decoded rows, and beside them neighbours interleaved.
struct TileRows {
  const Attention& a;
  int64_t steps;          // groups of 32 dims
  int64_t row, pair_row;  // values from one row to the next, and from one pair of rows to the next
  bf16* rows;             // [count, row]
  bf16* pairs;            // [count, pair_row]: room for pairs that begin with even and with odd rows
  float* wide;            // [dims + 16]

  // 64 bytes more than it needs: what lies one above the other in a tile is not to meet in one set of a cache.
  V4NPU_INLINE int64_t row_of(int64_t steps) { return steps * 32 + 32; }
  V4NPU_INLINE int64_t bytes(const Attention& a, int64_t count) {
    const int64_t steps = steps_of(a);
    return 2 * count * (row_of(steps) + row_of(2 * steps)) + 4 * (steps * 32 + kLanes);
  }
  V4NPU_MEMBER TileRows(const Attention& attention, int64_t count, void* memory)
      : a(attention), steps(steps_of(a)), row(row_of(steps)), pair_row(row_of(2 * steps)) {
    rows = static_cast<bf16*>(memory);
    pairs = rows + count * row;
    wide = reinterpret_cast<float*>(pairs + count * pair_row);
  }

  // 2 gather kv, as gather in attention.h, into row n.
  V4NPU_MEMBER void load_row(RowAt from, int64_t n) const {
    bf16* to = rows + n * row;
    if (!a.packed) return copy_groups(reinterpret_cast<const bf16*>(from.payload), a.head_dim, to);
    const int64_t keep = a.head_dim - a.rope_dim;
    bool done = keep % kFp8Block == 0;
    for (int64_t i = 0; i < keep && done; i += kFp8Block) {
      done = decode_e4m3<kFp8Block / 32>(from.payload + i, from.scales[i / kFp8Block],
                                         [&](int group, bf16x32 v) { store(to + i + group * 32, v); });
    }
    if (done) {
      const auto* turned = reinterpret_cast<const bf16*>(from.payload + keep);
      return copy_groups(turned, a.rope_dim, to + keep);
    }
    widen_kv<bf16>(from, true, keep, 0, a.head_dim, wide);
    for (int64_t d = 0; d < 32 * steps; d += kLanes)
      store(to + d, d < a.head_dim ? load_upto(wide + d, a.head_dim - d) : zero());
  }

  // Rows 2i and 2i + 1 of the n at `from` side by side, those from n on zero. Within a quarter of a register: a tile of
  // 16 dims has the lower or the upper four of every eight; TileQuery::store_out knows.
  V4NPU_MEMBER void interleave(const bf16* from, int64_t n, int64_t count, bf16* to) const {
    for (int64_t i = 0; i < count; ++i, from += 2 * row, to += pair_row) {
      for (int64_t s = 0; s < steps; ++s) {
        const __m512i even = 2 * i < n ? _mm512_loadu_si512(from + 32 * s) : _mm512_setzero_si512();
        const __m512i odd = 2 * i + 1 < n ? _mm512_loadu_si512(from + row + 32 * s) : _mm512_setzero_si512();
        _mm512_storeu_si512(to + 64 * s, _mm512_unpacklo_epi16(even, odd));
        _mm512_storeu_si512(to + 64 * s + 32, _mm512_unpackhi_epi16(even, odd));
      }
    }
  }
};

// The heads [head, head + heads) of a token, at most `group` of them.
struct TileQuery {
  const Attention& a;
  int64_t lanes, groups, steps;  // heads in whole vectors, and how many; groups of 32 dims
  bf16* q;                       // [groups, steps] tiles of 16 pairs of dims by 16 heads
  bf16* p;                       // [groups, 2] tiles of 16 heads by 32 keys
  float* sums;                   // [groups, 2 * steps] tiles of 16 heads by 16 dims
  float* scores;                 // [64, lanes]
  float *peak, *total;           // [lanes]

  V4NPU_INLINE int64_t bytes(const Attention& a, int64_t group) {
    const int64_t lanes = whole_vectors(group), dims = steps_of(a) * 32;
    return lanes * (2 * (dims + kPlaces) + 4 * (dims + kPlaces + 2));
  }
  V4NPU_MEMBER TileQuery(const Attention& attention, int64_t group, void* memory)
      : a(attention), lanes(whole_vectors(group)), groups(lanes / kLanes), steps(steps_of(a)) {
    const int64_t dims = steps * 32;
    q = static_cast<bf16*>(memory);
    p = q + lanes * dims;
    sums = reinterpret_cast<float*>(p + lanes * kPlaces);
    scores = sums + lanes * dims;
    peak = scores + kPlaces * lanes;
    total = peak + lanes;
  }

  // 1 load q
  V4NPU_MEMBER void load_q(const bf16* from, int64_t heads) const {
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t s = 0; s < steps; ++s) {
        const int64_t left = a.head_dim - 32 * s, first = g * kLanes;
        const auto some = static_cast<__mmask32>(left >= 32 ? 0xffffffff : (1u << left) - 1);
        __m512i v[kLanes];
#pragma GCC unroll 16
        for (int h = 0; h < kLanes; ++h) {
          v[h] = _mm512_maskz_loadu_epi16(first + h < heads ? some : 0, from + (first + h) * a.head_dim + 32 * s);
        }
        transpose(v);
        bf16* to = q + (g * steps + s) * kTileValues;
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) _mm512_storeu_si512(to + 32 * i, v[i]);
      }
    }
  }

  // 3 scores of all heads and 32 rows, `row` values apart, the block's from `first` on; where there are none
  // they are anything.
  V4NPU_MEMBER void score(const bf16* rows, int64_t row, int64_t first) const {
    const int64_t other = steps * kTileValues, next = lanes * kLanes;  // from one tile of q or scores to the next
    for (int64_t g = 0; g < groups; g += 2) {
      const bf16 *left = rows, *right = q + g * other;
      const bool two = g + 1 < groups;
      tile_zero<0>();
      tile_zero<1>();
      tile_zero<2>();
      tile_zero<3>();
      for (int64_t s = 0; s < steps; ++s, left += 32, right += kTileValues) {
        tile_load<4>(left, row * 2);
        tile_load<5>(left + 16 * row, row * 2);
        tile_stream<6>(right, 64);
        tile_dot<0, 4, 6>();
        tile_dot<1, 5, 6>();
        if (!two) continue;
        tile_stream<7>(right + other, 64);
        tile_dot<2, 4, 7>();
        tile_dot<3, 5, 7>();
      }
      float* to = scores + first * lanes + g * kLanes;
      tile_store<0>(to, lanes * 4);
      tile_store<1>(to + next, lanes * 4);
      if (!two) continue;
      tile_store<2>(to + kLanes, lanes * 4);
      tile_store<3>(to + next + kLanes, lanes * 4);
    }
  }

  // 4 online softmax of the heads of group g, as softmax in attention.h; scales their sums.
  V4NPU_MEMBER void weigh(int64_t g, int64_t n, bool first) const {
    const float* from = scores + g * kLanes;
    const f32x16 scale = set1(a.scale), old = load(peak + g * kLanes);
    f32x16 most = old;
    for (int64_t k = 0; k < n; ++k) most = max(most, load(from + k * lanes) * scale);
    const f32x16 factor = exp(old - most);
    f32x16 sum = load(total + g * kLanes) * factor;
    for (int64_t at = 0; at < n; at += 32) {
      __m512i v[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        const int64_t k = at + 2 * i;
        v[i] = _mm512_setzero_si512();
        if (k >= n) continue;
        const f32x16 even = exp(load(from + k * lanes) * scale - most);
        sum = sum + even;
        v[i] = _mm512_cvtepu16_epi32(to_bf16(even));
        if (k + 1 >= n) continue;
        const f32x16 odd = exp(load(from + (k + 1) * lanes) * scale - most);
        sum = sum + odd;
        v[i] = _mm512_or_si512(v[i], _mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16(odd)), 16));
      }
      transpose(v);
      bf16* to = p + (2 * g + at / 32) * kTileValues;
#pragma GCC unroll 16
      for (int h = 0; h < kLanes; ++h) _mm512_storeu_si512(to + 32 * h, v[h]);
    }
    store(peak + g * kLanes, most);
    store(total + g * kLanes, sum);
    if (first) return;
    alignas(64) float factors[kLanes];
    store(factors, factor);
    unsigned grown = _mm512_cmp_ps_mask(factor.v, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ);
    for (; grown != 0; grown &= grown - 1) {
      const int head = __builtin_ctz(grown);
      float* row = sums + g * 2 * steps * kTileSums + head * kLanes;
      for (int64_t i = 0; i < 2 * steps; ++i, row += kTileSums) store(row, load(row) * set1(factors[head]));
    }
  }

  // 5 accumulate: n rows, which lie interleaved at `pairs`, `apart` values from pair to pair.
  V4NPU_MEMBER void accumulate(const bf16* pairs, int64_t apart, int64_t n, bool first) const {
    for (int64_t g = 0; g < groups; g += 2) {
      const bool two = g + 1 < groups;
      for (int64_t d = 0; d < 2 * steps; d += 2) {
        float *to = sums + (g * 2 * steps + d) * kTileSums, *other = to + 2 * steps * kTileSums;
        if (first) {
          tile_zero<0>();
          tile_zero<1>();
          tile_zero<2>();
          tile_zero<3>();
        } else {
          tile_stream<0>(to, 64);
          tile_stream<1>(to + kTileSums, 64);
          if (two) tile_stream<2>(other, 64);
          if (two) tile_stream<3>(other + kTileSums, 64);
        }
        for (int64_t s = 0; s < (n + 31) / 32; ++s) {
          const bf16 *left = p + (2 * g + s) * kTileValues, *right = pairs + 16 * s * apart + 32 * d;
          tile_load<4>(left, 64);
          tile_load<6>(right, apart * 2);
          tile_load<7>(right + 32, apart * 2);
          tile_dot<0, 4, 6>();
          tile_dot<1, 4, 7>();
          if (!two) continue;
          tile_load<5>(left + 2 * kTileValues, 64);
          tile_dot<2, 5, 6>();
          tile_dot<3, 5, 7>();
        }
        tile_store<0>(to, 64);
        tile_store<1>(to + kTileSums, 64);
        if (two) tile_store<2>(other, 64);
        if (two) tile_store<3>(other + kTileSums, 64);
      }
    }
  }

  // 7 one rounding
  V4NPU_MEMBER void store_out(bf16* out, int64_t heads) const {
    const __m512i lower = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
    for (int64_t h = 0; h < heads; ++h) {
      const f32x16 divisor = set1(total[h]);
      const float* from = sums + h / kLanes * 2 * steps * kTileSums + h % kLanes * kLanes;
      for (int64_t d = 0; d < a.head_dim; d += 32, from += 2 * kTileSums) {
        const __m512 x = (load(from) / divisor).v, y = (load(from + kTileSums) / divisor).v;
        store_upto(out + h * a.head_dim + d, f32x16{_mm512_permutex2var_ps(x, lower, y)}, a.head_dim - d);
        if (a.head_dim - d <= kLanes) continue;
        store_upto(out + h * a.head_dim + d + kLanes, f32x16{_mm512_permutex2var_ps(x, upper, y)},
                   a.head_dim - d - kLanes);
      }
    }
  }

  // 4   5
  V4NPU_MEMBER void take(const bf16* pairs, int64_t apart, int64_t n, bool first) const {
    for (int64_t g = 0; g < groups; ++g) weigh(g, n, first);
    accumulate(pairs, apart, n, first);
  }
};

// What attends on one thread: `group` heads of one query, or of some that go together.
struct TileWorker {
  using Value = bf16;
  const Attention& a;
  const int64_t group, most;
  const TileRows rows;
  uint8_t* const queries;

  // Queries that may go together.
  V4NPU_INLINE int64_t most_together(const Attention& a, int64_t group) {
    const int64_t fit = kHeadsTogether / whole_vectors(group), most = fit < a.num_tokens ? fit : a.num_tokens;
    if (most < 1 || a.window % kPlaces != 0 || a.window > kSharedWindow) return 1;
    return most;
  }
  V4NPU_INLINE int64_t rows_of_all(const Attention& a, int64_t most) {
    return most > 1 ? a.window + most - 1 : kTileRows;
  }
  V4NPU_INLINE int64_t bytes(const Attention& a, int64_t group) {
    const int64_t most = most_together(a, group);
    return most * TileQuery::bytes(a, group) + TileRows::bytes(a, rows_of_all(a, most));
  }
  V4NPU_MEMBER TileWorker(const Attention& attention, int64_t heads, void* memory)
      : a(attention),
        group(heads),
        most(most_together(a, group)),
        rows(a, rows_of_all(a, most), static_cast<uint8_t*>(memory) + most * TileQuery::bytes(a, group)),
        queries(static_cast<uint8_t*>(memory)) {
    tile_configure(kLanes);
  }
  V4NPU_MEMBER void finish() const { tile_release(); }
  V4NPU_MEMBER TileQuery query(int64_t i) const { return {a, group, queries + i * TileQuery::bytes(a, group)}; }

  // How many of `some` tokens from this one on go together.
  V4NPU_MEMBER int64_t together(int64_t token, int64_t some) const {
    const List l = list_of(a, token);
    if (l.seen < a.window) return 1;
    int64_t count = some < most ? some : most;
    count = count < l.left ? count : l.left;
    if (a.ratio == 0) return count;
    const int64_t alike = a.ratio - (l.position + 1) % a.ratio;  // until one entry more is complete
    return count < alike ? count : alike;
  }

  // The window of each of `count` queries.
  V4NPU_MEMBER void take_windows(const List& l, int64_t count) const {
    const int64_t n = a.window + count - 1;
    for (int64_t i = 0; i < n; ++i) rows.load_row(row_at(l.window, l.first + i), i);
    bf16* const of_odd = rows.pairs + n / 2 * rows.pair_row;  // pairs that begin with an odd row
    rows.interleave(rows.rows, n, n / 2, rows.pairs);
    rows.interleave(rows.rows + rows.row, n - 1, (n - 1) / 2, of_odd);
    for (int64_t i = 0; i < count; ++i) {
      const TileQuery own = query(i);
      for (int64_t at = i; at < i + a.window; at += kPlaces) {
        for (int64_t k = 0; k < kPlaces; k += kTileRows) own.score(rows.rows + (at + k) * rows.row, rows.row, k);
        own.take((at % 2 == 0 ? rows.pairs : of_odd) + at / 2 * rows.pair_row, rows.pair_row, kPlaces, at == i);
      }
    }
  }

  // The places from `begin` on of a list, which is that of the queries [i, last). The first block has a row of the
  // window.
  V4NPU_MEMBER void take_places(const List& l, int64_t begin, int64_t i, int64_t last) const {
    for (; begin < l.places; begin += kPlaces) {
      int64_t n = 0;
      const auto score = [&] {
        const int64_t from = (n - 1) / kTileRows * kTileRows;
        rows.interleave(rows.rows, n - from, kTileRows / 2, rows.pairs + from / 2 * rows.pair_row);
        for (int64_t k = i; k < last; ++k) query(k).score(rows.rows, rows.row, from);
      };
      each_row(l, begin, begin + kPlaces, [&](RowAt row) __attribute__((always_inline)) {
        rows.load_row(row, n++ % kTileRows);
        if (n % kTileRows == 0) score();
      });
      RowsAhead(a, l, begin + kPlaces, begin + 2 * kPlaces).fetch_all();
      if (n == 0) continue;
      if (n % kTileRows != 0) score();
      for (int64_t k = i; k < last; ++k) query(k).take(rows.pairs, rows.pair_row, n, begin == 0);
    }
  }

  V4NPU_MEMBER void attend(int64_t token, int64_t count, int64_t head, int64_t heads) const {
    const int64_t at = (token * a.num_heads + head) * a.head_dim, apart = a.num_heads * a.head_dim;
    for (int64_t i = 0; i < count; ++i) {
      const TileQuery own = query(i);
      own.load_q(static_cast<const bf16*>(a.q) + at + i * apart, heads);
      start(own.lanes, own.peak, own.total);
    }
    if (count > 1) take_windows(list_of(a, token), count);
    const int64_t begin = count > 1 ? a.window : 0, alike = a.ratio > 0 ? count : 1;
    for (int64_t i = 0; i < count; i += alike) take_places(list_of(a, token + i), begin, i, i + alike);
    for (int64_t i = 0; i < count; ++i) {
      const TileQuery own = query(i);
      add_sink(a, head, heads, own.lanes, own.peak, own.total);
      own.store_out(static_cast<bf16*>(a.out) + at + i * apart, heads);
    }
  }
};

}  // namespace v4npu::cpu::V4NPU_ISA
