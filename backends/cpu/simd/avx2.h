// simd.h on AVX2 with FMA and F16C: two ymm. Tails go through the stack, for AVX2 has no masks for 16-bit lanes.
#pragma once

#include <immintrin.h>

namespace v4npu::cpu::V4NPU_ISA {

struct f32x16 {
  __m256 lo, hi;
};
struct f32x32 {
  f32x16 half[2];
};

constexpr int kRegisters = 8;  // f32x16 that the machine's registers hold

V4NPU_INLINE f32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
V4NPU_INLINE f32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }

V4NPU_INLINE __m256 from_bf16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
// The rounded upper half of each lane, in 32 bits.
V4NPU_INLINE __m256i to_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), _mm256_set1_epi32(0x7fc0), nan);
}

V4NPU_INLINE f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
// The same 16 bytes in both halves of the register: no shuffle has to cross between them, which takes longer.
V4NPU_INLINE __m256i load_twice(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
V4NPU_INLINE __m256 load_bf16x8(const bf16* p) {
  const __m256i upper = _mm256_setr_epi32(0x0100'8080, 0x0302'8080, 0x0504'8080, 0x0706'8080,  //
                                          0x0908'8080, 0x0b0a'8080, 0x0d0c'8080, 0x0f0e'8080);
  return _mm256_castsi256_ps(_mm256_shuffle_epi8(load_twice(p), upper));
}
V4NPU_INLINE f32x16 load(const bf16* p) { return {load_bf16x8(p), load_bf16x8(p + 8)}; }
V4NPU_INLINE void store(float* p, f32x16 v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}
V4NPU_INLINE void store(bf16* p, f32x16 v) {
  // packus works within each half of the register; the permutation puts its quarters in order.
  const __m256i packed = _mm256_packus_epi32(to_bf16(v.lo), to_bf16(v.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
template <class T>
V4NPU_INLINE f32x16 load_partial(const T* p, int n) {
  T all[kLanes] = {};
  std::memcpy(all, p, static_cast<size_t>(n) * sizeof(T));
  return load(all);
}
template <class T>
V4NPU_INLINE void store_partial(T* p, f32x16 v, int n) {
  T all[kLanes];
  store(all, v);
  std::memcpy(p, all, static_cast<size_t>(n) * sizeof(T));
}

V4NPU_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
V4NPU_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
V4NPU_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
V4NPU_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
V4NPU_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
V4NPU_INLINE f32x16 swap_pairs(f32x16 v) { return {_mm256_permute_ps(v.lo, 0xb1), _mm256_permute_ps(v.hi, 0xb1)}; }
V4NPU_INLINE f32x16 max(f32x16 a, f32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
V4NPU_INLINE f32x16 min(f32x16 a, f32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }

V4NPU_INLINE float first_lane(f32x16 v) { return _mm256_cvtss_f32(v.lo); }
V4NPU_INLINE f32x16 sqrt(f32x16 v) { return {_mm256_sqrt_ps(v.lo), _mm256_sqrt_ps(v.hi)}; }

// Lane i takes lane i ^ W.
template <int W>
V4NPU_INLINE f32x16 swap_lanes(f32x16 v) {
  if constexpr (W == 1) return {_mm256_permute_ps(v.lo, 0xb1), _mm256_permute_ps(v.hi, 0xb1)};
  if constexpr (W == 2) return {_mm256_permute_ps(v.lo, 0x4e), _mm256_permute_ps(v.hi, 0x4e)};
  if constexpr (W == 4) return {_mm256_permute2f128_ps(v.lo, v.lo, 1), _mm256_permute2f128_ps(v.hi, v.hi, 1)};
  if constexpr (W == 8) return {v.hi, v.lo};
}

// Eight rows of eight.
V4NPU_INLINE void transpose(__m256 (&v)[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    v[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    v[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    v[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    v[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) v[i] = t[i];
}
// v[i] lane j <-> v[j] lane i.
V4NPU_INLINE void transpose(f32x16 (&v)[16]) {
  __m256 quarter[4][8];
  for (int i = 0; i < 8; ++i) {
    quarter[0][i] = v[i].lo;
    quarter[1][i] = v[i].hi;
    quarter[2][i] = v[i + 8].lo;
    quarter[3][i] = v[i + 8].hi;
  }
  for (auto& q : quarter) transpose(q);
  for (int i = 0; i < 8; ++i) {
    v[i] = {quarter[0][i], quarter[2][i]};
    v[i + 8] = {quarter[1][i], quarter[3][i]};
  }
}

V4NPU_INLINE uint32_t above(f32x16 v, float x) {
  const __m256 limit = _mm256_set1_ps(x);
  const int lo = _mm256_movemask_ps(_mm256_cmp_ps(v.lo, limit, _CMP_NLE_UQ));
  return static_cast<uint32_t>(lo | _mm256_movemask_ps(_mm256_cmp_ps(v.hi, limit, _CMP_NLE_UQ)) << 8);
}

V4NPU_INLINE f32x16 keep_bits(f32x16 v, uint32_t mask) {
  const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(mask)));
  return {_mm256_and_ps(v.lo, m), _mm256_and_ps(v.hi, m)};
}
V4NPU_INLINE f32x16 join_bits(f32x16 a, f32x16 b) { return {_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)}; }
V4NPU_INLINE __m256 max_bits(__m256 a, __m256 b) {
  return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
V4NPU_INLINE f32x16 max_bits(f32x16 a, f32x16 b) { return {max_bits(a.lo, b.lo), max_bits(a.hi, b.hi)}; }

// To the nearest integer, ties to even; |v| below 2^22; a zero may lose its sign.
V4NPU_INLINE f32x16 round(f32x16 v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(v.lo, kNearest), _mm256_round_ps(v.hi, kNearest)};
}

V4NPU_INLINE __m256 exp2i(__m256 v) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
// 2^v for integers v in [-126, 127]; NaN gives anything.
V4NPU_INLINE f32x16 exp2i(f32x16 v) { return {exp2i(v.lo), exp2i(v.hi)}; }

// Lane i with lane i + 8, then 4, 2, 1.
V4NPU_INLINE float reduce_add(f32x16 v) {
  const __m256 eight = _mm256_add_ps(v.lo, v.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
V4NPU_INLINE float reduce_max(f32x16 v) {
  const __m256 eight = _mm256_max_ps(v.lo, v.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

using f32part = __m256;
constexpr int kParts = 2;
V4NPU_INLINE f32part zero_part() { return _mm256_setzero_ps(); }
V4NPU_INLINE f32part load_part(const float* p) { return _mm256_loadu_ps(p); }
V4NPU_INLINE void store_part(float* p, f32part v) { _mm256_storeu_ps(p, v); }
V4NPU_INLINE f32part fma(f32part a, f32part b, f32part c) { return _mm256_fmadd_ps(a, b, c); }
V4NPU_INLINE f32x16 join_parts(const f32part (&parts)[kParts]) { return {parts[0], parts[1]}; }
V4NPU_INLINE void split_parts(f32x16 v, f32part (&parts)[kParts]) {
  parts[0] = v.lo;
  parts[1] = v.hi;
}

// The code, shifted into a float16, is 2^-8 of its value, subnormals included.
V4NPU_INLINE f32x16 load_e4m3(const uint8_t* p) {
  const __m256i codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i low = _mm256_set1_epi16(0x7f), magnitude = _mm256_and_si256(codes, low);
  const __m256i sign = _mm256_slli_epi16(_mm256_andnot_si256(low, codes), 8);
  const __m256i nan = _mm256_cmpeq_epi16(magnitude, low);
  const __m256i half =
      _mm256_or_si256(sign, _mm256_blendv_epi8(_mm256_slli_epi16(magnitude, 7), _mm256_set1_epi16(0x7e00), nan));
  const __m256 scale = _mm256_set1_ps(256.0f);
  return {_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), scale),
          _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)), scale)};
}

// Of normal codes: their bits where a float32 has them, 2^-120 of the value; an arithmetic shift copies the sign. Codes
// i and i + 8 share an int32, each the upper byte of a half. A subnormal code would be a subnormal float32, and to
// multiply one takes an Intel core a hundred times as long.
constexpr float kE4m3Unit = 0x1p120f;
V4NPU_INLINE f32x16 load_e4m3_units(const uint8_t* p) {
  const __m256i upper = _mm256_setr_epi32(0x0880'0080, 0x0980'0180, 0x0a80'0280, 0x0b80'0380,  //
                                          0x0c80'0480, 0x0d80'0580, 0x0e80'0680, 0x0f80'0780);
  const __m256i pairs = _mm256_srai_epi16(_mm256_shuffle_epi8(load_twice(p), upper), 4);
  const __m256i kept = _mm256_set1_epi32(static_cast<int>(0x87f0'0000));
  return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(pairs, 16), kept)),
          _mm256_castsi256_ps(_mm256_and_si256(pairs, kept))};
}
V4NPU_INLINE bool has_e4m3_units(const uint8_t* p, int64_t n) {
  // Magnitudes 8 to 0x7e, as 0 to 0x76.
  const __m256i sign = _mm256_set1_epi8(static_cast<char>(0x80)), least = _mm256_set1_epi8(static_cast<char>(0x88));
  __m256i largest = _mm256_setzero_si256();
  for (int64_t i = 0; i < n; i += 32) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i));
    largest = _mm256_max_epu8(largest, _mm256_sub_epi8(_mm256_or_si256(codes, sign), least));
  }
  const __m256i most = _mm256_set1_epi8(0x76);
  return _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(largest, most), most)) == -1;
}

V4NPU_INLINE __m256i to_half(f32x16 v, float scale) {
  const __m256 s = _mm256_set1_ps(scale);
  const __m128i lo = _mm256_cvtps_ph(_mm256_mul_ps(v.lo, s), _MM_FROUND_TO_NEAREST_INT);
  return _mm256_set_m128i(_mm256_cvtps_ph(_mm256_mul_ps(v.hi, s), _MM_FROUND_TO_NEAREST_INT), lo);
}

// As above: 2^-8 of the value in float16 has the code in its bits. A NaN is the only one with the upper exponent bit.
V4NPU_INLINE void store_e4m3_exact(uint8_t* p, f32x16 v) {
  const __m256i half = to_half(v, 0x1p-8f), low = _mm256_set1_epi16(0x7f);
  const __m256i nan = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(half, 1), 15), low);
  const __m256i magnitude = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(half, 7), low), nan);
  const __m256i codes = _mm256_or_si256(magnitude, _mm256_andnot_si256(low, _mm256_srli_epi16(half, 8)));
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

// Likewise 2^-14 of the value.
V4NPU_INLINE void store_e2m1_exact(uint8_t* p, f32x16 v) {
  const __m256i half = to_half(v, 0x1p-14f);
  const __m256i codes = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(half, 9), _mm256_set1_epi16(7)),
                                        _mm256_and_si256(_mm256_srli_epi16(half, 12), _mm256_set1_epi16(8)));
  const __m256i pairs = _mm256_and_si256(_mm256_or_si256(codes, _mm256_srli_epi32(codes, 12)), _mm256_set1_epi32(0xff));
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}

// Looks up the upper 16 bits of each value, a byte at a time; the lower ones are zero.
V4NPU_INLINE f32x16 load_e2m1(const uint8_t* p) {
  constexpr char k80 = static_cast<char>(0x80), kBf = static_cast<char>(0xbf), kC0 = static_cast<char>(0xc0);
  const __m128i high =
      _mm_setr_epi8(0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, k80, kBf, kBf, kBf, kC0, kC0, kC0, kC0);
  const __m128i low = _mm_setr_epi8(0, 0, k80, kC0, 0, 0x40, k80, kC0, 0, 0, k80, kC0, 0, 0x40, k80, kC0);
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), nibble = _mm_set1_epi8(15);
  const __m128i codes =
      _mm_unpacklo_epi8(_mm_and_si128(bytes, nibble), _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble));
  const __m128i l = _mm_shuffle_epi8(low, codes), h = _mm_shuffle_epi8(high, codes);
  return {from_bf16(_mm_unpacklo_epi8(l, h)), from_bf16(_mm_unpackhi_epi8(l, h))};
}

// The upper 16 bits of every code's value times each scale, the rest of which are zero: first the upper bytes.
struct E2m1Scaled {
  alignas(32) uint8_t of[256][2][16];
  constexpr E2m1Scaled() : of() {
    for (int scale = 0; scale < 256; ++scale) {
      for (int code = 0; code < 16; ++code) {
        of[scale][0][code] = static_cast<uint8_t>(e2m1_scaled(scale, code) >> 8);
        of[scale][1][code] = static_cast<uint8_t>(e2m1_scaled(scale, code));
      }
    }
  }
};
constexpr E2m1Scaled kE2m1Scaled;

// Looked up a byte at a time. The codes of even places go into the lower half of a register, those of odd ones into the
// upper, and no step crosses between them.
V4NPU_INLINE f32x32 load_e2m1_scaled(const uint8_t* p, uint8_t scale) {
  const __m256i high = load_twice(kE2m1Scaled.of[scale][0]), low = load_twice(kE2m1Scaled.of[scale][1]);
  const __m256i pairs = _mm256_srlv_epi64(load_twice(p), _mm256_setr_epi64x(0, 0, 4, 4));
  const __m256i codes = _mm256_and_si256(pairs, _mm256_set1_epi8(15));
  const __m256i h = _mm256_shuffle_epi8(high, codes), l = _mm256_shuffle_epi8(low, codes);
  const auto sixteen = [](__m256i v) -> f32x16 {
    const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff'0000));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(v, 16)), _mm256_castsi256_ps(_mm256_and_si256(v, odd))};
  };
  return {{sixteen(_mm256_unpacklo_epi8(l, h)), sixteen(_mm256_unpackhi_epi8(l, h))}};
}
// Of four 4 x 4 values, those in the first column, in the second, ...
V4NPU_INLINE f32x16 arrange_e2m1(f32x16 v) {
  const __m256 a = _mm256_unpacklo_ps(v.lo, v.hi), b = _mm256_unpackhi_ps(v.lo, v.hi);
  const __m256 c = _mm256_permute2f128_ps(a, b, 0x20), d = _mm256_permute2f128_ps(a, b, 0x31);
  const __m256 even = _mm256_unpacklo_ps(c, d), odd = _mm256_unpackhi_ps(c, d);
  return {_mm256_permute2f128_ps(even, odd, 0x20), _mm256_permute2f128_ps(even, odd, 0x31)};
}
V4NPU_INLINE float reduce_e2m1(f32x16 v) {
  const __m256 fours = _mm256_add_ps(_mm256_shuffle_ps(v.lo, v.hi, 0x44), _mm256_shuffle_ps(v.lo, v.hi, 0xee));
  const __m256 twos = _mm256_add_ps(fours, _mm256_permute_ps(fours, 0xb1));
  const __m256 ones = _mm256_add_ps(twos, _mm256_permute_ps(twos, 0x4e));
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(ones), _mm256_extractf128_ps(ones, 1)));
}

template <int N>
V4NPU_INLINE void reduce_e2m1_each(const f32x16 (&v)[N], float* out) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) out[i] = reduce_e2m1(v[i]);
}

}  // namespace v4npu::cpu::V4NPU_ISA

#include "no_bf16_dot.h"
#include "no_zmm.h"
