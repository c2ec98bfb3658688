// FP4 rows by one to four tokens, a lane to a row as in gemm_amx_rows.h, but in integers. Where 32 values of a token
// are multiples of one power of two, whose magnitudes add up to less than 2^24 / 12 of it, sums of products are below
// 2^24 times half of it: exact in float32 in any order, and so in the tiles'.
//   weights      twice the value and 12, so 0 to 24, an unsigned byte
//   tokens       256 high + low, signed bytes; of some groups 65536 top + 256 high + low
//   sum          of four products a lane at a time, from -12 times the sum of the token's
// Quantised activations are so but for a few groups; these have fused multiply-adds.
#pragma once

#include "gemm_amx_rows.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int kTwoDigits = 127 * 256 + 127;
constexpr int kOffset = 12;
constexpr int kMostSum = (1 << 24) / kOffset;

// Of 32 values: what a sum begins with, the exponent of its unit, and how many digits each number has; 0 where the sum
// is not to be one of integers.
struct NumberGroup {
  int32_t start;
  int16_t power, digits;
};

constexpr int64_t kGroupDigits = 96;

// Packed tokens in digits: [tokens, kp / 32] times 96 of them, the low ones of even values, of odd ones, and likewise
// the high and the top ones; and as many groups.
struct NumberedTokens {
  const bf16* packed;
  int64_t tokens, columns, kp;
  Range range;
  const int8_t* digits;
  const NumberGroup* groups;

  V4NPU_MEMBER NumberedTokens(const bf16* x, int64_t num_tokens, int64_t room, int64_t k)
      : packed(x), tokens(num_tokens), columns(room), kp(k), range(*reinterpret_cast<const Range*>(x + room * k)) {
    digits = reinterpret_cast<const int8_t*>(x + room * k) + kRangeBytes;
    groups = reinterpret_cast<const NumberGroup*>(digits + tokens * (kp / 32) * kGroupDigits);
  }
  V4NPU_MEMBER static void make(bf16* packed, int64_t tokens, int64_t columns, int64_t kp) {
    auto* behind = reinterpret_cast<Range*>(packed + columns * kp);
    auto* to = reinterpret_cast<int8_t*>(behind) + kRangeBytes;
    auto* group = reinterpret_cast<NumberGroup*>(to + tokens * (kp / 32) * kGroupDigits);
    *behind = walk_packed(packed, tokens, columns, kp,
                          [&](int64_t /*t*/, int64_t /*i*/, __m512i even, __m512i odd) __attribute__((always_inline)) {
                            const __m512i both[2] = {even, odd};
                            *group++ = number(both, to);
                            to += kGroupDigits;
                          });
  }

 private:
  static constexpr int kOfZero = 128;
  // The exponent of the last bit that is set in each.
  V4NPU_MEMBER static __m512i last_bits(__m512i v) {
    const __m512i significand = _mm512_or_si512(_mm512_srli_epi32(v, 16), _mm512_set1_epi32(128));
    const __m512i last = _mm512_and_si512(significand, _mm512_sub_epi32(_mm512_setzero_si512(), significand));
    const __m512i place = _mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(last)), 23);
    const __m512i exponent = _mm512_and_si512(_mm512_srli_epi32(v, 23), _mm512_set1_epi32(255));
    const __m512i power = _mm512_add_epi32(_mm512_add_epi32(exponent, place), _mm512_set1_epi32(-127 - 7 - 127));
    return _mm512_mask_mov_epi32(_mm512_set1_epi32(kOfZero), _mm512_test_epi32_mask(v, v), power);
  }
  V4NPU_MEMBER static NumberGroup number(const __m512i (&v)[2], int8_t* out) {
    const int least = _mm512_reduce_min_epi32(_mm512_min_epi32(last_bits(v[0]), last_bits(v[1])));
    const int power = least == kOfZero ? 0 : least;
    const __m512 up = _mm512_set1_ps(static_cast<float>(-power));
    __m512 greatest = _mm512_setzero_ps(), magnitudes = _mm512_setzero_ps();
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < 2; ++i) {
      const __m512 x = _mm512_scalef_ps(_mm512_castsi512_ps(v[i]), up), magnitude = _mm512_abs_ps(x);
      greatest = _mm512_max_ps(greatest, magnitude);
      magnitudes = _mm512_add_ps(magnitudes, magnitude);
      __m512i n = _mm512_cvtps_epi32(x);
      sum = _mm512_add_epi32(sum, n);
      for (int digit = 0; digit < 3; ++digit) {
        const __m512i last = _mm512_srai_epi32(_mm512_slli_epi32(n, 24), 24);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 32 * digit + 16 * i), _mm512_cvtepi32_epi8(last));
        n = _mm512_srai_epi32(_mm512_sub_epi32(n, last), 8);
      }
    }
    // Exact as long as it matters: of less than 2^24.
    if (!(_mm512_reduce_add_ps(magnitudes) < kMostSum)) return {0, 0, 0};
    const int16_t digits = _mm512_reduce_max_ps(greatest) <= kTwoDigits ? 2 : 3;
    return {-kOffset * _mm512_reduce_add_epi32(sum), static_cast<int16_t>(power - 1), digits};
  }
};

// 32 values of 16 rows, which lie as load_turned leaves them, by digits of a token's.
V4NPU_INLINE __m512i sum_digits(const __m512i (&codes)[8], const int8_t* digits, __m512i sum) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    int32_t four;
    std::memcpy(&four, digits + i % 2 * 16 + i / 2 * 4, 4);
    sum = _mm512_dpbusd_epi32(sum, codes[i], _mm512_set1_epi32(four));
  }
  return sum;
}
V4NPU_INLINE f32x16 sum_numbers(const __m512i (&codes)[8], const int8_t* digits, NumberGroup group) {
  const __m512i low = sum_digits(codes, digits, _mm512_set1_epi32(group.start));
  __m512i high = sum_digits(codes, digits + 32, _mm512_setzero_si512());
  if (group.digits == 3) {
    const __m512i top = sum_digits(codes, digits + 64, _mm512_setzero_si512());
    high = _mm512_add_epi32(high, _mm512_slli_epi32(top, 8));
  }
  return {_mm512_cvtepi32_ps(_mm512_add_epi32(low, _mm512_slli_epi32(high, 8)))};
}

// The same by fused multiply-adds.
inline __attribute__((noinline)) f32x16 sum_values(__m512i v0, __m512i v1, __m512i v2, __m512i v3, const bf16* pairs,
                                                   int64_t columns) {
  const __m512 values = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000)), v[4] = {v0, v1, v2, v3};
  RowSums sums;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      int32_t pair;
      std::memcpy(&pair, pairs + (4 * i + j / 2) * columns * 2, 4);
      const __m512i both = _mm512_set1_epi32(pair);
      const __m512i x = j % 2 == 0 ? _mm512_slli_epi32(both, 16) : _mm512_and_si512(both, upper);
      const __m512i code = _mm512_srli_epi32(v[i], static_cast<unsigned>(4 * j));
      sums.add(j, _mm512_castps_si512(_mm512_permutexvar_ps(code, values)), f32x16{_mm512_castsi512_ps(x)});
    }
  }
  return sums.total();
}

// The scale of 32 values is a power of two, so it may follow their sum, if that is normal without it too.
template <int TOKENS>
bool sum_rows(const E2m1Rows& w, int64_t row0, const NumberedTokens& x, float* c) {
  const __m512i numbers =
      _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
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
    __builtin_prefetch(scales + 32 * row_scales + k0 / 2);  // a line of those of the rows behind the next ones
    least = _mm512_min_epu8(least, four_scales);
    most = _mm512_max_epu8(most, four_scales);
#pragma GCC unroll 1
    for (int g = 0; g < 4; ++g) {
      __m512i codes[8];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        fetch_lines(p + k0 / 2 + (4 * g + i) * row_bytes, next + 8 * k0 + 64 * (4 * g + i));
        codes[2 * i] = _mm512_permutexvar_epi8(v[4 * g + i], numbers);
        codes[2 * i + 1] = _mm512_permutexvar_epi8(_mm512_srli_epi32(v[4 * g + i], 4), numbers);
      }
      const __m512i byte =
          _mm512_and_si512(_mm512_srli_epi32(four_scales, static_cast<unsigned>(8 * g)), _mm512_set1_epi32(0xff));
#pragma GCC unroll 4
      for (int t = 0; t < TOKENS; ++t) {
        const int64_t i = t * (x.kp / 32) + k0 / 32 + g;
        const NumberGroup group = x.groups[i];
        const f32x16 sum = group.digits != 0 ? sum_numbers(codes, x.digits + kGroupDigits * i, group)
                                             : sum_values(v[4 * g], v[4 * g + 1], v[4 * g + 2], v[4 * g + 3],
                                                          x.packed + (k0 + 32 * g) * x.columns + 2 * t, x.columns);
        const __m512i exponent = _mm512_add_epi32(byte, _mm512_set1_epi32(group.power));
        total[t] = fma(sum, f32x16{_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))}, total[t]);
      }
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
  return low > 1 && high < 253 && x.range.fits(kE8m0Bias, 1, 3) && x.range.fits(low, 1, 3) && x.range.fits(high, 1, 3);
}

// As that of FP8, of one to four tokens.
V4NPU_INLINE bool by_rows(const E2m1Rows& w, int64_t row0, const NumberedTokens& x, float* c) {
  switch (x.tokens) {
    case 1: return sum_rows<1>(w, row0, x, c);
    case 2: return sum_rows<2>(w, row0, x, c);
    case 3: return sum_rows<3>(w, row0, x, c);
  }
  return sum_rows<4>(w, row0, x, c);
}

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA
