// Few tokens by 16 weight rows in vector registers, a lane to a row, with the bits of the tiles in gemm_amx.h:
//   tile_dot sums even and odd k apart in chains of 16 fused multiply-adds from zero, and adds their sum to c
// Tiles take subnormal numbers for zero, vectors do not: so only where none can occur, else the tiles do it.
//
// Loops stay loops: a step of decoding is many small products, between which their instructions leave the caches, and
// some KB of them take longer to come than the loops take.
#pragma once

#include "gemm_rows.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

// Lane i: i times n.
V4NPU_INLINE __m512i multiples(int64_t n) {
  return _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                            _mm512_set1_epi32(static_cast<int>(n)));
}

// What is behind packed tokens begins with the biased exponents of the least and greatest of all values, zeros apart.
struct Range {
  uint32_t least, most;  // the least above the greatest: all are zero

  // Whether all are finite, and products with multiples of 2^(scale - 127 - below) up to 2^(scale - 127 + above), and
  // sums of them, are zero or normal.
  bool fits(int scale, int below, int above) const {
    constexpr int kMantissa = 7, kLength = 20;  // log2 of the greatest k
    const int low = static_cast<int>(least), high = static_cast<int>(most);
    if (low > high) return scale != 255;
    return high < 255 && scale + low - below - kMantissa > 128 && scale + high + above + kLength < 380;
  }
};
constexpr int64_t kRangeBytes = 64;

// For each token and every 32 values each(token, i, even, odd), of those that are packed for tiles with room for
// `columns`: subnormal ones become zero there too, as which tiles take them.
template <class Each>
V4NPU_INLINE Range walk_packed(bf16* packed, int64_t tokens, int64_t columns, int64_t kp, const Each& each) {
  const __m512i apart = multiples(columns);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000)), exponent = _mm512_set1_epi32(0x7f800000);
  __m512i low = _mm512_set1_epi32(255 << 23), high = _mm512_setzero_si512();
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < kp; i += 32) {
      bf16* const at = packed + i * columns + 2 * t;
      const __m512i pairs = _mm512_i32gather_epi32(apart, at, 4);
      __m512i both[2] = {_mm512_slli_epi32(pairs, 16), _mm512_and_si512(pairs, upper)};
      __mmask16 subnormal = 0;
      for (__m512i& v : both) {
        const __mmask16 normal = _mm512_test_epi32_mask(v, exponent);
        const __m512i power = _mm512_and_si512(v, exponent);
        low = _mm512_mask_min_epu32(low, normal, low, power);
        high = _mm512_max_epu32(high, power);
        subnormal |= _mm512_mask_test_epi32_mask(static_cast<__mmask16>(~normal), v, v);
        v = _mm512_maskz_mov_epi32(normal, v);
      }
      if (subnormal != 0)
        _mm512_i32scatter_epi32(at, apart, _mm512_or_si512(_mm512_srli_epi32(both[0], 16), both[1]), 4);
      each(t, i, both[0], both[1]);
    }
  }
  return {_mm512_reduce_min_epu32(low) >> 23, _mm512_reduce_max_epu32(high) >> 23};
}

// A packed token widened: [kp] floats, of every 32 values the even ones, then the odd ones.
struct WideToken {
  Range range;
  const float* x;

  V4NPU_MEMBER WideToken(const bf16* packed, int64_t /*tokens*/, int64_t columns, int64_t k)
      : range(*reinterpret_cast<const Range*>(packed + columns * k)) {
    x = reinterpret_cast<const float*>(packed + columns * k) + kRangeBytes / 4;
  }
  V4NPU_MEMBER static void make(bf16* packed, int64_t tokens, int64_t columns, int64_t kp) {
    auto* behind = reinterpret_cast<Range*>(packed + columns * kp);
    float* wide = reinterpret_cast<float*>(behind) + kRangeBytes / 4;
    *behind = walk_packed(packed, tokens, columns, kp,
                          [&](int64_t /*t*/, int64_t i, __m512i even, __m512i odd) __attribute__((always_inline)) {
                            _mm512_storeu_si512(wide + i, even);
                            _mm512_storeu_si512(wide + i + kLanes, odd);
                          });
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

// Sums of 32 values of 16 rows.
struct RowSums {
  f32x16 even = zero(), odd = zero();

  // Value k of each row.
  V4NPU_MEMBER void add(int k, __m512i w, f32x16 x) {
    f32x16& sum = k % 2 != 0 ? odd : even;
    sum = fma(f32x16{_mm512_castsi512_ps(w)}, x, sum);
  }
  V4NPU_MEMBER f32x16 total() const { return even + odd; }
};

// Rows [row0, row0 + 16) to c [16 tokens, 16 rows]. False, and c is to be computed anew, where they have two scales or
// a value is not exact in bfloat16.
inline bool by_rows(const E4m3Rows& w, int64_t row0, const WideToken& token, float* c) {
  if (!w.share_scales(row0, kTile)) return false;
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80)), low_bytes = _mm512_set1_epi32(0x00ff00ff);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const uint8_t *p = w.codes + row0 * w.k, *next = p + 16 * w.k;
  f32x16 total = zero();
  for (int64_t k0 = 0; k0 < w.k; k0 += 64) {
    const uint8_t scale = w.scale_of(row0, k0);
    if (!token.range.fits(scale, 9, 9)) return false;
    const auto& table = kE4m3Scaled.of[scale];
    const __m512i low0 = _mm512_load_si512(table.low), low1 = _mm512_load_si512(table.low + 64);
    const __m512i high0 = _mm512_load_si512(table.high), high1 = _mm512_load_si512(table.high + 64);
    __m512i v[16];
    load_turned(p + k0, w.k, v);
#pragma GCC unroll 1
    for (int64_t half = 0; half < 2; ++half) {
      RowSums sums;
      const float* x = token.x + k0 + 32 * half;
#pragma GCC unroll 1
      for (int64_t i = 8 * half; i < 8 * half + 8; ++i, x += 2) {
        fetch_lines(p + k0 + i * w.k, next + 16 * k0 + 64 * i);
        const __m512i codes = v[i];
        const __m512i low = _mm512_permutex2var_epi8(low0, codes, low1);
        const __m512i magnitude = _mm512_permutex2var_epi8(high0, codes, high1);
        const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes, sign, 0xf8);
        // Codes 0 and 2, and 1 and 3, in bfloat16.
        const __m512i even = _mm512_ternarylogic_epi32(low, low_bytes, _mm512_slli_epi32(high, 8), 0xe2);
        const __m512i odd = _mm512_ternarylogic_epi32(_mm512_srli_epi32(low, 8), low_bytes, high, 0xe2);
        sums.add(0, _mm512_slli_epi32(even, 16), set1(x[0]));
        sums.add(1, _mm512_slli_epi32(odd, 16), set1(x[16]));
        sums.add(2, _mm512_and_si512(even, upper), set1(x[1]));
        sums.add(3, _mm512_and_si512(odd, upper), set1(x[17]));
      }
      total = total + sums.total();
    }
  }
  store(c, total);
  return _mm512_cmp_ps_mask(total.v, total.v, _CMP_UNORD_Q) == 0;  // what is not exact is NaN in the table
}

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA
