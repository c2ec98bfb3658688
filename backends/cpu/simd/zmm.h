// simd.h on AVX-512, with or without bfloat16: one zmm, and masks for tails.
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
// out[i]: lanes of v[i] added to those W1 away, then these W2 away and so on; up to 16, and there is room for 16.
// Vectors are added two by two, so each begins where its lane of the result is made from.
template <int W1, int W2, int W3, int W4, int N>
V4NPU_INLINE void reduce_by_each(const f32x16 (&v)[N], float* out) {
  if constexpr (N < 4) {
#pragma GCC unroll 3
    for (int i = 0; i < N; ++i) {
      f32x16 s = v[i] + swap_lanes<W1>(v[i]);
      s = s + swap_lanes<W2>(s);
      s = s + swap_lanes<W3>(s);
      out[i] = first_lane(s + swap_lanes<W4>(s));
    }
  } else {
    constexpr int kSums = N > 8 ? 16 : 8;
    __m512 s[kSums];
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      const int lane = kSums == 16 ? i : i / W4 * 2 * W4 + i % W4;
      const int half = lane / W1 % 2, quarter = lane / W2 % 2, eighth = lane / W3 % 2;
      const int to = (half * 4 + quarter * 2 + eighth) * (kSums / 8) + (kSums == 16 ? lane / W4 % 2 : 0);
      s[to] = i < N ? v[i].v : _mm512_setzero_ps();
    }
#pragma GCC unroll 8
    for (int i = 0; i < kSums / 2; ++i) s[i] = add_halves<W1>(s[i], s[i + kSums / 2]);
#pragma GCC unroll 4
    for (int i = 0; i < kSums / 4; ++i) s[i] = add_halves<W2>(s[i], s[i + kSums / 4]);
#pragma GCC unroll 2
    for (int i = 0; i < kSums / 8; ++i) s[i] = add_halves<W3>(s[i], s[i + kSums / 8]);
    if constexpr (kSums == 16) return _mm512_storeu_ps(out, add_halves<W4>(s[0], s[1]));
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps(W4 == 1 ? 0x5555 : 0x3333, add_halves<W4>(s[0], s[0])));
  }
}
template <int N>
V4NPU_INLINE void reduce_add_each(const f32x16 (&v)[N], float* out) {
  reduce_by_each<8, 4, 2, 1>(v, out);
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

}  // namespace v4npu::cpu::V4NPU_ISA

#include "one_part.h"
