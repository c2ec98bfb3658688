// simd.h on AVX-512: one zmm, masks for tails, and the bfloat16 dot product.
#pragma once

#include <immintrin.h>

namespace v4npu::cpu::V4NPU_ISA {

struct f32x16 {
  __m512 v;
};

constexpr int kRegisters = 32;  // f32x16 that the machine's registers hold

V4NPU_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }

V4NPU_INLINE f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
V4NPU_INLINE f32x16 zero() { return {_mm512_setzero_ps()}; }

V4NPU_INLINE f32x16 from_bf16(__m256i halves) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
// Not vcvtneps2bf16: it takes subnormals for zero and keeps the payload of NaN.
V4NPU_INLINE __m256i to_bf16(f32x16 x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i upper = _mm512_srli_epi32(rounded, 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, upper, _mm512_set1_epi32(0x7fc0)));
}

V4NPU_INLINE f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
V4NPU_INLINE f32x16 load(const bf16* p) { return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
V4NPU_INLINE f32x16 load_partial(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
V4NPU_INLINE f32x16 load_partial(const bf16* p, int n) { return from_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }

V4NPU_INLINE void store(float* p, f32x16 v) { _mm512_storeu_ps(p, v.v); }
V4NPU_INLINE void store(bf16* p, f32x16 v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(v)); }
V4NPU_INLINE void store_partial(float* p, f32x16 v, int n) { _mm512_mask_storeu_ps(p, first(n), v.v); }
V4NPU_INLINE void store_partial(bf16* p, f32x16 v, int n) { _mm256_mask_storeu_epi16(p, first(n), to_bf16(v)); }

V4NPU_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
V4NPU_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
V4NPU_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
V4NPU_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
V4NPU_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
V4NPU_INLINE f32x16 swap_pairs(f32x16 v) { return {_mm512_permute_ps(v.v, 0xb1)}; }
V4NPU_INLINE f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
V4NPU_INLINE f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }

V4NPU_INLINE float first_lane(f32x16 v) { return _mm512_cvtss_f32(v.v); }
V4NPU_INLINE f32x16 sqrt(f32x16 v) { return {_mm512_sqrt_ps(v.v)}; }

// Lane i takes lane i ^ W.
template <int W>
V4NPU_INLINE f32x16 swap_lanes(f32x16 v) {
  if constexpr (W == 1) return {_mm512_permute_ps(v.v, 0xb1)};
  if constexpr (W == 2) return {_mm512_permute_ps(v.v, 0x4e)};
  if constexpr (W == 4) return {_mm512_shuffle_f32x4(v.v, v.v, 0xb1)};
  if constexpr (W == 8) return {_mm512_shuffle_f32x4(v.v, v.v, 0x4e)};
}

// v[i] lane j <-> v[j] lane i.
V4NPU_INLINE void transpose(f32x16 (&v)[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // pairs of rows, then fours
    t[2 * i] = _mm512_unpacklo_ps(v[2 * i].v, v[2 * i + 1].v);
    t[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i].v, v[2 * i + 1].v);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i].v = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    v[i + 1].v = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    v[i + 2].v = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    v[i + 3].v = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // then quarters of a register
    t[i] = _mm512_shuffle_f32x4(v[i].v, v[i + 4].v, 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(v[i].v, v[i + 4].v, 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(v[i + 8].v, v[i + 12].v, 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(v[i + 8].v, v[i + 12].v, 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i].v = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    v[i + 4].v = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    v[i + 8].v = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    v[i + 12].v = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// As of floats: bits are moved, none is looked at.
V4NPU_INLINE void transpose(__m512i (&v)[16]) {
  f32x16 t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) t[i].v = _mm512_castsi512_ps(v[i]);
  transpose(t);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = _mm512_castps_si512(t[i].v);
}

V4NPU_INLINE uint32_t above(f32x16 v, float x) { return _mm512_cmp_ps_mask(v.v, _mm512_set1_ps(x), _CMP_NLE_UQ); }

V4NPU_INLINE f32x16 keep_bits(f32x16 v, uint32_t mask) {
  return {_mm512_and_ps(v.v, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(mask))))};
}
V4NPU_INLINE f32x16 join_bits(f32x16 a, f32x16 b) { return {_mm512_or_ps(a.v, b.v)}; }
V4NPU_INLINE f32x16 max_bits(f32x16 a, f32x16 b) {
  return {_mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
}

// To the nearest integer, ties to even; |v| below 2^22; a zero may lose its sign.
V4NPU_INLINE f32x16 round(f32x16 v) { return {_mm512_roundscale_ps(v.v, _MM_FROUND_TO_NEAREST_INT)}; }

// v * 2^n for integers n.
V4NPU_INLINE f32x16 ldexp(f32x16 v, f32x16 n) { return {_mm512_scalef_ps(v.v, n.v)}; }

V4NPU_INLINE __m256 lower(f32x16 v) { return _mm512_castps512_ps256(v.v); }
V4NPU_INLINE __m256 upper(f32x16 v) { return _mm512_extractf32x8_ps(v.v, 1); }

// Lane i with lane i + 8, then 4, 2, 1.
V4NPU_INLINE float reduce_add(f32x16 v) {
  const __m256 eight = _mm256_add_ps(lower(v), upper(v));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Of every 2 HALF lanes the first HALF are a's, the others b's: each the sum of the lane and of the one HALF away.
template <int HALF>
V4NPU_INLINE __m512 add_halves(__m512 a, __m512 b) {
  constexpr __mmask16 kOther = HALF == 8 ? 0xff00 : HALF == 4 ? 0xf0f0 : HALF == 2 ? 0xcccc : 0xaaaa;
  const __m512 kept = _mm512_mask_blend_ps(kOther, a, b);
  if constexpr (HALF == 8) return _mm512_add_ps(kept, _mm512_shuffle_f32x4(a, b, 0x4e));
  if constexpr (HALF == 2) return _mm512_add_ps(kept, _mm512_shuffle_ps(a, b, 0x4e));
  const __m512 other = _mm512_mask_blend_ps(kOther, b, a);
  if constexpr (HALF == 4) return _mm512_add_ps(kept, _mm512_shuffle_f32x4(other, other, 0xb1));
  return _mm512_add_ps(kept, _mm512_permute_ps(other, 0xb1));
}
// Lane i: reduce_add(v[i]) of 16 or 8.
template <int N>
V4NPU_INLINE f32x16 reduce_add_each(const f32x16 (&v)[N]) {
  __m512 s[N];
#pragma GCC unroll 8
  for (int i = 0; i < N / 2; ++i) s[i] = add_halves<8>(v[i].v, v[i + N / 2].v);
#pragma GCC unroll 4
  for (int i = 0; i < N / 4; ++i) s[i] = add_halves<4>(s[i], s[i + N / 4]);
#pragma GCC unroll 2
  for (int i = 0; i < N / 8; ++i) s[i] = add_halves<2>(s[i], s[i + N / 8]);
  if constexpr (N == 16) return {add_halves<1>(s[0], s[1])};
  return {_mm512_maskz_compress_ps(0x5555, add_halves<1>(s[0], s[0]))};
}
V4NPU_INLINE float reduce_max(f32x16 v) {
  const __m256 eight = _mm256_max_ps(lower(v), upper(v));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// The code, shifted into a float16, is 2^-8 of its value, subnormals included.
V4NPU_INLINE f32x16 load_e4m3(const uint8_t* p) {
  const __m256i codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7f));
  const __m256i sign = _mm256_slli_epi16(_mm256_andnot_si256(_mm256_set1_epi16(0x7f), codes), 8);
  const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
  const __m256i half =
      _mm256_or_si256(sign, _mm256_mask_blend_epi16(nan, _mm256_slli_epi16(magnitude, 7), _mm256_set1_epi16(0x7e00)));
  return {_mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f))};
}

V4NPU_INLINE f32x16 load_e2m1(const uint8_t* p) {
  const __m512 table = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  // permutexvar reads the low four bits of an index, so only the odd nibbles need a shift.
  const __m128i codes = _mm_unpacklo_epi8(bytes, _mm_srli_epi16(bytes, 4));
  return {_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), table)};
}

// As above: 2^-8 of the value in float16 has the code in its bits. A NaN is the only one with the upper exponent bit.
V4NPU_INLINE void store_e4m3_exact(uint8_t* p, f32x16 v) {
  const __m256i half = _mm512_cvtps_ph(_mm512_mul_ps(v.v, _mm512_set1_ps(0x1p-8f)), _MM_FROUND_TO_NEAREST_INT);
  const __m256i low = _mm256_set1_epi16(0x7f);
  const __m256i nan = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(half, 1), 15), low);
  const __m256i magnitude = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(half, 7), low), nan);
  const __m256i codes = _mm256_or_si256(magnitude, _mm256_andnot_si256(low, _mm256_srli_epi16(half, 8)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtepi16_epi8(codes));
}

// Likewise 2^-14 of the value.
V4NPU_INLINE void store_e2m1_exact(uint8_t* p, f32x16 v) {
  const __m256i half = _mm512_cvtps_ph(_mm512_mul_ps(v.v, _mm512_set1_ps(0x1p-14f)), _MM_FROUND_TO_NEAREST_INT);
  const __m256i codes = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(half, 9), _mm256_set1_epi16(7)),
                                        _mm256_and_si256(_mm256_srli_epi16(half, 12), _mm256_set1_epi16(8)));
  const __m256i pairs = _mm256_or_si256(codes, _mm256_srli_epi32(codes, 12));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm256_cvtepi32_epi8(pairs));
}

// ---- bfloat16 products, summed in pairs

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

#include "defaults.h"
