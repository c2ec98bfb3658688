// attention.h on AMX tiles, for bfloat16 whose probabilities are rounded: both products of a block of 64 places.
//
//   scores [keys, heads] = rows (left operand) times q (right, turned once per query)
//   sums [heads, dims] += probabilities (left, turned per block) times rows (right, neighbours interleaved)
//
// Everything a tile instruction touches lies in tiles of 16 rows of 64 bytes, one after the other. Sums of a head are
// scaled in memory when its maximum has grown, which soon becomes rare. Of the operands the first cache holds no more
// than the rows that are scored: q and sums are streamed past it. Scratch for 64 heads of 512: q 64 KiB, rows
// 32 KiB, interleaved rows 64 KiB, sums 128 KiB, scores 16 KiB, probabilities 8 KiB.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kTileRows = 32;         // of the 64 that are decoded, scored and interleaved at a time
constexpr int64_t kTileValues = 16 * 32;  // of bf16
constexpr int64_t kTileSums = 16 * 16;    // of float

// The n values at p and zeros behind them, in groups of 32, a tile apart.
V4NPU_INLINE void copy_groups(const bf16* p, int64_t n, bf16* out) {
  for (int64_t i = 0; i < n; i += 32, out += kTileValues) {
    const auto some = static_cast<__mmask32>(n - i >= 32 ? 0xffffffff : (1u << (n - i)) - 1);
    _mm512_storeu_si512(out, _mm512_maskz_loadu_epi16(some, p + i));
  }
}

// What attends on one thread: the heads [head, head + heads) of a token, at most `group` of them.
struct TileWorker {
  using Value = bf16;
  const Attention& a;
  int64_t lanes, groups, steps;  // heads in whole vectors, and how many; groups of 32 dims
  bf16* q;                       // [groups, steps] tiles of 16 pairs of dims by 16 heads
  bf16* rows;                    // [kTileRows / 16, steps] tiles of 16 keys by 32 dims
  bf16* pairs;                   // [2 * steps, 2] tiles of 16 pairs of keys by 16 dims
  bf16* p;                       // [groups, 2] tiles of 16 heads by 32 keys
  float* sums;                   // [groups, 2 * steps] tiles of 16 heads by 16 dims
  float* scores;                 // [64, lanes]
  float *peak, *total, *wide;    // [lanes], [lanes], [dims]

  V4NPU_INLINE int64_t bytes(const Attention& a, int64_t group) {
    const int64_t lanes = whole_vectors(group), steps = (a.head_dim + 31) / 32;
    const int64_t values = (lanes + kTileRows + kPlaces) * steps * 32 + lanes * kPlaces;
    return 2 * values + 4 * (lanes * steps * 32 + kPlaces * lanes + 2 * lanes + steps * 32);
  }
  V4NPU_MEMBER TileWorker(const Attention& attention, int64_t group, void* memory)
      : a(attention), lanes(whole_vectors(group)), groups(lanes / kLanes), steps((a.head_dim + 31) / 32) {
    const int64_t dims = steps * 32;
    q = static_cast<bf16*>(memory);
    rows = q + lanes * dims;
    pairs = rows + kTileRows * dims;
    p = pairs + kPlaces * dims;
    sums = reinterpret_cast<float*>(p + lanes * kPlaces);
    scores = sums + lanes * dims;
    peak = scores + kPlaces * lanes;
    total = peak + lanes;
    wide = total + lanes;
    tile_configure(kLanes);
  }
  V4NPU_MEMBER void finish() const { tile_release(); }

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

  // 2 gather kv, as gather in attention.h: row n of the block.
  V4NPU_MEMBER void load_row(RowAt row, int64_t n) const {
    bf16* to = rows + n % kTileRows / 16 * steps * kTileValues + n % 16 * 32;
    if (!a.packed) return copy_groups(reinterpret_cast<const bf16*>(row.payload), a.head_dim, to);
    const int64_t keep = a.head_dim - a.rope_dim;
    bool done = keep % kFp8Block == 0;
    for (int64_t i = 0; i < keep && done; i += kFp8Block) {
      done = decode_e4m3<kFp8Block / 32>(row.payload + i, row.scales[i / kFp8Block],
                                         [&](int group, bf16x32 v) { store(to + (i / 32 + group) * kTileValues, v); });
    }
    if (done) {
      const auto* turned = reinterpret_cast<const bf16*>(row.payload + keep);
      return copy_groups(turned, a.rope_dim, to + keep / 32 * kTileValues);
    }
    widen_kv<bf16>(row, true, keep, 0, a.head_dim, wide);
    for (int64_t d = 0; d < 32 * steps; d += kLanes) {
      store(to + d / 32 * kTileValues + d % 32, d < a.head_dim ? load(wide + d) : zero());
    }
  }

  // The last of the block's n rows, from `first` on: 2i and 2i + 1 side by side, those from n on zero. Within a quarter
  // of a register: a tile of 16 dims has the lower or the upper four of every eight; `store_out` knows.
  V4NPU_MEMBER void interleave(int64_t first, int64_t n) const {
    for (int64_t i = first / 2; i < (first + kTileRows) / 2; ++i) {
      const bf16* from = rows + 2 * i % kTileRows / 16 * steps * kTileValues + 2 * i % 16 * 32;
      bf16* to = pairs + i / 16 * kTileValues + i % 16 * 32;
      for (int64_t s = 0; s < steps; ++s, from += kTileValues, to += 4 * kTileValues) {
        const __m512i even = 2 * i < n ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
        const __m512i odd = 2 * i + 1 < n ? _mm512_loadu_si512(from + 32) : _mm512_setzero_si512();
        _mm512_storeu_si512(to, _mm512_unpacklo_epi16(even, odd));
        _mm512_storeu_si512(to + 2 * kTileValues, _mm512_unpackhi_epi16(even, odd));
      }
    }
  }

  // 3 scores of all heads and the rows of the block from `first` on; where there are none they are anything.
  V4NPU_MEMBER void score(int64_t first) const {
    const int64_t row = steps * kTileValues, next = lanes * kLanes;  // from one tile of rows or scores to the next
    for (int64_t g = 0; g < groups; g += 2) {
      const bf16 *left = rows, *right = q + g * row;
      const bool two = g + 1 < groups;
      tile_zero<0>();
      tile_zero<1>();
      tile_zero<2>();
      tile_zero<3>();
      for (int64_t s = 0; s < steps; ++s, left += kTileValues, right += kTileValues) {
        tile_load<4>(left, 64);
        tile_load<5>(left + row, 64);
        tile_stream<6>(right, 64);
        tile_dot<0, 4, 6>();
        tile_dot<1, 5, 6>();
        if (!two) continue;
        tile_stream<7>(right + row, 64);
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

  // 5 accumulate
  V4NPU_MEMBER void accumulate(int64_t n, bool first) const {
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
          const bf16 *left = p + (2 * g + s) * kTileValues, *right = pairs + (2 * d + s) * kTileValues;
          tile_load<4>(left, 64);
          tile_load<6>(right, 64);
          tile_load<7>(right + 2 * kTileValues, 64);
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

  V4NPU_MEMBER void attend(int64_t token, int64_t head, int64_t heads) const {
    const List l = list_of(a, token);
    const int64_t at = (token * a.num_heads + head) * a.head_dim;
    load_q(static_cast<const bf16*>(a.q) + at, heads);
    start(lanes, peak, total);
    bool first = true;
    for (int64_t begin = 0; begin < l.places; begin += kPlaces) {
      int64_t n = 0;
      const auto take = [&] {
        const int64_t last = (n - 1) / kTileRows * kTileRows;
        interleave(last, n);
        score(last);
      };
      each_row(l, begin, begin + kPlaces, [&](RowAt row) __attribute__((always_inline)) {
        load_row(row, n++);
        if (n % kTileRows == 0) take();
      });
      fetch_rows(a, l, begin + kPlaces, begin + 2 * kPlaces);
      if (n == 0) continue;
      if (n % kTileRows != 0) take();
      for (int64_t g = 0; g < groups; ++g) weigh(g, n, first);
      accumulate(n, first);
      first = false;
    }
    if (first) std::memset(sums, 0, static_cast<size_t>(lanes * steps * 32) * sizeof(float));
    add_sink(a, head, heads, lanes, peak, total);
    store_out(static_cast<bf16*>(a.out) + at, heads);
  }
};

}  // namespace v4npu::cpu::V4NPU_ISA
