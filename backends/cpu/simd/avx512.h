// simd.h on AVX-512 with BF16, VNNI and VBMI: zmm.h, and the bfloat16 dot product.
#pragma once

#include "zmm.h"

namespace v4npu::cpu::V4NPU_ISA {

constexpr bool has_bf16_dot = true;

struct bf16x32 {
  __m512bh v;
};

V4NPU_INLINE bf16x32 bf16x32_of(__m512i bits) {
  bf16x32 out;
  std::memcpy(&out, &bits, sizeof out);  // __m512bh has no cast that every compiler knows
  return out;
}
V4NPU_INLINE bf16x32 load_bf16x32(const bf16* p) { return bf16x32_of(_mm512_loadu_si512(p)); }
V4NPU_INLINE void store(bf16* p, bf16x32 v) { std::memcpy(p, &v, sizeof v); }

// acc[i] + a[2i] b[2i] + a[2i+1] b[2i+1]: each product is exact, each sum rounded to nearest even; subnormal inputs and
// results count as zero, whatever the thread's mode.
V4NPU_INLINE f32x16 dot_bf16(f32x16 acc, bf16x32 a, bf16x32 b) { return {_mm512_dpbf16_ps(acc.v, a.v, b.v)}; }

V4NPU_INLINE f32x16 pairs_of(__m512i bits) { return {_mm512_castsi512_ps(bits)}; }
V4NPU_INLINE __m512i bits_of(bf16x32 v) {
  __m512i bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

// Lane i of out[0] and out[1]: values i, and i + 16, of a and of b, as a pair for dot_bf16.
V4NPU_INLINE void pair_up(bf16x32 a, bf16x32 b, f32x16 (&out)[2]) {
  const __m512i even = _mm512_set1_epi32(32 << 16);
  const __m512i first =
      _mm512_add_epi32(even, _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                                _mm512_set1_epi32(0x10001)));
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(0x100010));
  out[0] = pairs_of(_mm512_permutex2var_epi16(bits_of(a), first, bits_of(b)));
  out[1] = pairs_of(_mm512_permutex2var_epi16(bits_of(a), second, bits_of(b)));
}
// Those of a and b rounded to nearest even; a subnormal number counts as zero, as dot_bf16 has it.
V4NPU_INLINE f32x16 pair_up(f32x16 a, f32x16 b) {
  const auto half = [](f32x16 v) __attribute__((always_inline)) {
    const __m256bh narrow = _mm512_cvtneps_pbh(v.v);
    __m256i bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    return _mm512_cvtepu16_epi32(bits);
  };
  return pairs_of(_mm512_or_si512(half(a), _mm512_slli_epi32(half(b), 16)));
}

// ---- codes, scaled, as bfloat16: put(i, group) for every 32. False, and what was put is to be forgotten, where one is
// neither zero nor one of its normal numbers.

// The values of all codes times each scale, less their signs, a byte at a time; NaN where not exact, and from 2^127 on,
// so that the upper byte alone tells.
struct E4m3Scaled {
  struct Scale {
    alignas(64) uint8_t high[128], low[128];
  };
  Scale of[256];
  constexpr E4m3Scaled() : of() {
    for (int scale = 0; scale < 256; ++scale) {
      for (int code = 0; code < 128; ++code) {
        int exponent = code >> 3, mantissa = code & 7;
        if (exponent == 0 && mantissa != 0) {
          for (exponent = 1; mantissa < 8; --exponent) mantissa *= 2;
        }
        exponent += 120 + scale - kE8m0Bias;
        const bool exact = code != 127 && exponent > 0 && exponent < 254 && scale != 255;
        const int bits = code == 0 && scale != 255 ? 0 : exact ? exponent << 7 | (mantissa & 7) << 4 : 0x7fc0;
        of[scale].high[code] = static_cast<uint8_t>(bits >> 8);
        of[scale].low[code] = static_cast<uint8_t>(bits);
      }
    }
  }
};
inline constexpr E4m3Scaled kE4m3Scaled;

class ScaledE4m3 {
 public:
  // out[0] has the first 32 codes.
  V4NPU_MEMBER void load(const uint8_t* p, uint8_t scale, bf16x32 (&out)[2]) {
    const auto& table = kE4m3Scaled.of[scale];
    // So that what is interleaved within quarters of a register lies in order.
    const __m512i codes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), _mm512_loadu_si512(p));
    const auto look_up = [&](const uint8_t* bytes) __attribute__((always_inline)) {
      return _mm512_permutex2var_epi8(_mm512_load_si512(bytes), codes, _mm512_load_si512(bytes + 64));
    };
    const __m512i low = look_up(table.low), magnitude = look_up(table.high);
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes, sign, 0xf8);
    greatest_ = _mm512_max_epu8(greatest_, magnitude);
    out[0] = bf16x32_of(_mm512_unpacklo_epi8(low, high));
    out[1] = bf16x32_of(_mm512_unpackhi_epi8(low, high));
  }
  V4NPU_MEMBER bool exact() const { return _mm512_cmpeq_epi8_mask(greatest_, _mm512_set1_epi8(0x7f)) == 0; }

 private:
  __m512i greatest_ = _mm512_setzero_si512();
};

// GROUPS * 32 codes of one scale; GROUPS is even.
template <int GROUPS, class Put>
V4NPU_INLINE bool decode_e4m3(const uint8_t* p, uint8_t scale, const Put& put) {
  ScaledE4m3 codes;
#pragma GCC unroll 2
  for (int i = 0; i < GROUPS; i += 2) {
    bf16x32 v[2];
    codes.load(p + int64_t{32} * i, scale, v);
    put(i, v[0]);
    put(i + 1, v[1]);
  }
  return codes.exact();
}

// v times 2^(scale - 127), and whether that is exact; a subnormal number, which dot_bf16 takes for zero, stays one.
V4NPU_INLINE bool scale_exactly(bf16x32& v, uint8_t scale) {
  const __m512i shift = _mm512_set1_epi16(static_cast<short>((scale - kE8m0Bias) * 128));
  const __m512i bits = bits_of(v), exponent = _mm512_and_si512(bits, _mm512_set1_epi16(0x7f80));
  const __m512i from_least = _mm512_sub_epi16(_mm512_add_epi16(exponent, shift), _mm512_set1_epi16(0x80));
  const __mmask32 normal = _mm512_test_epi16_mask(exponent, exponent);
  const __mmask32 beyond = _mm512_mask_cmpgt_epu16_mask(normal, from_least, _mm512_set1_epi16(0x7e80)) |
                           _mm512_cmpeq_epi16_mask(exponent, _mm512_set1_epi16(0x7f80));
  v = bf16x32_of(_mm512_mask_add_epi16(bits, normal, bits, shift));
  return beyond == 0;
}

// The values of all codes times each scale, twice: an index has five bits.
struct E2m1Scaled {
  alignas(64) uint16_t of[256][32];
  constexpr E2m1Scaled() : of() {
    for (int scale = 0; scale < 256; ++scale) {
      for (int code = 0; code < 32; ++code) of[scale][code] = static_cast<uint16_t>(e2m1_scaled(scale, code % 16));
    }
  }
};
inline constexpr E2m1Scaled kE2m1Scaled;

// 128 codes; `scale`: one for every 32 of them. The table has every scale, so this is never false.
template <class Put>
V4NPU_INLINE bool decode_e2m1(const uint8_t* p, const uint8_t* scale, const Put& put) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i fours = _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + int64_t{16} * i)));
    const __m512i codes = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x0c0c'0808'0404'0000), fours);
    put(i, bf16x32_of(_mm512_permutexvar_epi16(codes, _mm512_load_si512(kE2m1Scaled.of[scale[i]]))));
  }
  return true;
}

}  // namespace v4npu::cpu::V4NPU_ISA

#include "plain_codes.h"
