// One to four tokens by 16 weight rows in vector registers, a lane to a row, with the bits of the tiles in gemm_amx.h:
//   tile_dot sums even and odd k apart in chains of 16 fused multiply-adds from zero, and adds their sum to c
// Tiles take subnormal numbers for zero, vectors do not: so only where none can occur, else the tiles do it.
#pragma once

#include "gemm_rows.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kByRows = 4;  // tokens

// Lane i: i times n.
V4NPU_INLINE __m512i multiples(int64_t n) {
  return _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                            _mm512_set1_epi32(static_cast<int>(n)));
}

// Tokens that are packed for tiles with room for `columns`, widened behind them: [tokens, kp] floats, of every 32
// values the even ones, then the odd ones; then the biased exponents of the least and greatest of all, zeros apart.
V4NPU_INLINE void widen(bf16* packed, int64_t tokens, int64_t columns, int64_t kp) {
  const __m512i apart = multiples(columns);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000)), exponent = _mm512_set1_epi32(0x7f800000);
  __m512i low = _mm512_set1_epi32(255 << 23), high = _mm512_setzero_si512();
  auto* wide = reinterpret_cast<float*>(packed + columns * kp);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < kp; i += 32) {
      const __m512i pairs = _mm512_i32gather_epi32(apart, packed + i * columns + 2 * t, 4);
      const __m512i both[2] = {_mm512_slli_epi32(pairs, 16), _mm512_and_si512(pairs, upper)};
      for (int j = 0; j < 2; ++j, wide += kLanes) {
        const __mmask16 normal = _mm512_test_epi32_mask(both[j], exponent);
        const __m512i power = _mm512_and_si512(both[j], exponent);
        low = _mm512_mask_min_epu32(low, normal, low, power);
        high = _mm512_max_epu32(high, power);
        _mm512_storeu_si512(wide, _mm512_maskz_mov_epi32(normal, both[j]));
      }
    }
  }
  const uint32_t range[2] = {_mm512_reduce_min_epu32(low) >> 23, _mm512_reduce_max_epu32(high) >> 23};
  std::memcpy(wide, range, sizeof range);
}

// What `widen` has left.
struct WideTokens {
  const float* x;
  int64_t tokens, kp;
  uint32_t range[2];  // the least above the greatest: all are zero

  WideTokens(const bf16* packed, int64_t num_tokens, int64_t columns, int64_t k)
      : x(reinterpret_cast<const float*>(packed + columns * k)), tokens(num_tokens), kp(k) {
    std::memcpy(range, x + tokens * kp, sizeof range);
  }
  // Whether all are finite, and products with multiples of 2^(scale - 127 - below) up to 2^(scale - 127 + above), and
  // sums of them, are zero or normal.
  bool fits(int scale, int below, int above) const {
    constexpr int kMantissa = 7, kLength = 20;  // log2 of the greatest k
    const int least = static_cast<int>(range[0]), most = static_cast<int>(range[1]);
    if (least > most) return scale != 255;
    return most < 255 && scale + least - below - kMantissa > 128 && scale + most + above + kLength < 380;
  }
};

// 64 bytes of each of 16 rows: lane r of v[i] has bytes 4 i to 4 i + 3 of row r.
V4NPU_INLINE void load_turned(const uint8_t* p, int64_t row_bytes, __m512i (&v)[16]) {
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) v[r] = _mm512_loadu_si512(p + r * row_bytes);
  transpose(v);
}

// What a row has some lines on, into the first cache, and one line of the rows behind these, in the order in which they
// lie, into the second: of the two one alone waits for memory, unless rows are long enough for the hardware to follow.
V4NPU_INLINE void fetch_lines(const uint8_t* row, const uint8_t* next) {
  __builtin_prefetch(row + 128, 0, 3);
  __builtin_prefetch(next, 0, 2);
}
constexpr int64_t kLongRow = 2048;

template <int TOKENS>
struct RowSums {
  f32x16 even[TOKENS], odd[TOKENS];

  V4NPU_MEMBER void clear() {
#pragma GCC unroll 4
    for (int t = 0; t < TOKENS; ++t) even[t] = odd[t] = zero();
  }
  // Value k0 + k of each row; k0 is a multiple of 32.
  V4NPU_MEMBER void add(const WideTokens& x, int64_t k0, int k, __m512i w) {
#pragma GCC unroll 4
    for (int t = 0; t < TOKENS; ++t) {
      f32x16& sum = k % 2 != 0 ? odd[t] : even[t];
      const float value = x.x[t * x.kp + k0 + k / 32 * 32 + k % 2 * 16 + k % 32 / 2];
      sum = fma(f32x16{_mm512_castsi512_ps(w)}, set1(value), sum);
    }
  }
};

// False, and c is to be computed anew, where a value is not exact in bfloat16.
template <int TOKENS>
bool sum_rows(const E4m3Rows& w, int64_t row0, const WideTokens& x, float* c) {
  if (row0 >> w.row_shift != (row0 + 15) >> w.row_shift) return false;  // rows of two scales
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80)), low_bytes = _mm512_set1_epi32(0x00ff00ff);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const uint8_t *p = w.codes + row0 * w.k, *next = p + 16 * w.k;
  __m512i greatest = _mm512_setzero_si512();
  f32x16 total[TOKENS];
#pragma GCC unroll 4
  for (int t = 0; t < TOKENS; ++t) total[t] = zero();
  for (int64_t k0 = 0; k0 < w.k; k0 += 64) {
    const uint8_t scale = w.scale_of(row0, k0);
    if (!x.fits(scale, 9, 9)) return false;
    const auto& table = kE4m3Scaled.of[scale];
    const __m512i low0 = _mm512_load_si512(table.low), low1 = _mm512_load_si512(table.low + 64);
    const __m512i high0 = _mm512_load_si512(table.high), high1 = _mm512_load_si512(table.high + 64);
    __m512i v[16];
    load_turned(p + k0, w.k, v);
    RowSums<TOKENS> sums;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (w.k < kLongRow)
        fetch_lines(p + k0 + i * w.k, next + 16 * k0 + 64 * i);
      else
        __builtin_prefetch(p + k0 + i * w.k + 256, 0, 3);
      if (i % 8 == 0) sums.clear();
      const __m512i low = _mm512_permutex2var_epi8(low0, v[i], low1);
      const __m512i magnitude = _mm512_permutex2var_epi8(high0, v[i], high1);
      greatest = _mm512_max_epu8(greatest, magnitude);
      const __m512i high = _mm512_ternarylogic_epi32(magnitude, v[i], sign, 0xf8);
      // Codes 0 and 2, and 1 and 3, in bfloat16.
      const __m512i even = _mm512_ternarylogic_epi32(low_bytes, low, _mm512_slli_epi32(high, 8), 0xca);
      const __m512i odd = _mm512_ternarylogic_epi32(low_bytes, _mm512_srli_epi32(low, 8), high, 0xca);
      sums.add(x, k0, 4 * i, _mm512_slli_epi32(even, 16));
      sums.add(x, k0, 4 * i + 1, _mm512_slli_epi32(odd, 16));
      sums.add(x, k0, 4 * i + 2, _mm512_and_si512(even, upper));
      sums.add(x, k0, 4 * i + 3, _mm512_and_si512(odd, upper));
      if (i % 8 != 7) continue;
#pragma GCC unroll 4
      for (int t = 0; t < TOKENS; ++t) total[t] = total[t] + (sums.even[t] + sums.odd[t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < TOKENS; ++t) store(c + t * kTile, total[t]);
  return _mm512_cmpeq_epi8_mask(greatest, _mm512_set1_epi8(0x7f)) == 0;
}

// The scale of 32 values is a power of two, so it may follow their sum, if that is normal without it too.
template <int TOKENS>
bool sum_rows(const E2m1Rows& w, int64_t row0, const WideTokens& x, float* c) {
  const __m512 values = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
  const int64_t row_bytes = w.k / 2, row_scales = w.k / 32;
  const uint8_t *p = w.codes + row0 * row_bytes, *next = p + 16 * row_bytes, *scales = w.scale + row0 * row_scales;
  const __m512i rows = multiples(row_scales);
  __m512i least = _mm512_set1_epi8(static_cast<char>(0xff)), most = _mm512_setzero_si512();
  f32x16 total[TOKENS];
#pragma GCC unroll 4
  for (int t = 0; t < TOKENS; ++t) total[t] = zero();
  for (int64_t k0 = 0; k0 < w.k; k0 += 128) {
    __m512i v[16];
    load_turned(p + k0 / 2, row_bytes, v);
    const __m512i four_scales = _mm512_i32gather_epi32(rows, scales + k0 / 32, 1);
    least = _mm512_min_epu8(least, four_scales);
    most = _mm512_max_epu8(most, four_scales);
    RowSums<TOKENS> sums;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      fetch_lines(p + k0 / 2 + i * row_bytes, next + 8 * k0 + 64 * i);
      if (i % 4 == 0) sums.clear();
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        const __m512i code = _mm512_srli_epi32(v[i], static_cast<unsigned>(4 * j));
        sums.add(x, k0, 8 * i + j, _mm512_castps_si512(_mm512_permutexvar_ps(code, values)));
      }
      if (i % 4 != 3) continue;
      const __m512i byte =
          _mm512_and_si512(_mm512_srli_epi32(four_scales, static_cast<unsigned>(i / 4 * 8)), _mm512_set1_epi32(0xff));
      const f32x16 scale{_mm512_castsi512_ps(_mm512_slli_epi32(byte, 23))};
#pragma GCC unroll 4
      for (int t = 0; t < TOKENS; ++t) total[t] = fma(sums.even[t] + sums.odd[t], scale, total[t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < TOKENS; ++t) store(c + t * kTile, total[t]);
  alignas(64) uint8_t lows[64], highs[64];
  _mm512_store_si512(lows, least);
  _mm512_store_si512(highs, most);
  int low = 255, high = 0;
  for (int i = 0; i < 64; ++i) {
    low = lows[i] < low ? lows[i] : low;
    high = highs[i] > high ? highs[i] : high;
  }
  // From a scale of 2 to one of 252 every weight is zero or normal.
  return low > 1 && high < 253 && x.fits(kE8m0Bias, 1, 3) && x.fits(low, 1, 3) && x.fits(high, 1, 3);
}

// Rows [row0, row0 + 16) to c [16 tokens, 16 rows]; false if not done.
template <class W>
V4NPU_INLINE bool by_rows(const W& w, int64_t row0, const WideTokens& x, float* c) {
  switch (x.tokens) {
    case 1: return sum_rows<1>(w, row0, x, c);
    case 2: return sum_rows<2>(w, row0, x, c);
    case 3: return sum_rows<3>(w, row0, x, c);
  }
  return sum_rows<4>(w, row0, x, c);
}

// Whether tokens are widened for rows of this kind, and these are as long as is wanted.
template <class W>
constexpr bool kWidened = false;
template <>
constexpr bool kWidened<E4m3Rows> = true;
template <>
constexpr bool kWidened<E2m1Rows> = true;
V4NPU_INLINE bool whole_lines(const E4m3Rows& w) { return w.k % 64 == 0; }
V4NPU_INLINE bool whole_lines(const E2m1Rows& w) { return w.k % 128 == 0 && w.k < int64_t{1} << 26; }

// 32 rows of one to four tokens.
template <class W>
V4NPU_INLINE bool few_by_rows(const W& w, int64_t row0, const bf16* x, int64_t tokens, int64_t columns, int64_t kp,
                              float* c) {
  if (!whole_lines(w)) return false;
  const WideTokens wide(x, tokens, columns, kp);
  return by_rows(w, row0, wide, c) && by_rows(w, row0 + kTile, wide, c + kTile * kTile);
}

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA
