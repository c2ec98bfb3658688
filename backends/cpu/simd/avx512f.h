// simd.h on AVX-512 as Skylake has it, without bfloat16: zmm.h, and codes decoded to float32. Bits are those of avx2.h.
#pragma once

#include "zmm.h"

namespace v4npu::cpu::V4NPU_ISA {

struct f32x32 {
  f32x16 half[2];
};

// The values of all codes times each scale.
struct E2m1Scaled {
  alignas(64) uint32_t of[256][16];
  constexpr E2m1Scaled() : of() {
    for (int scale = 0; scale < 256; ++scale) {
      for (int code = 0; code < 16; ++code) of[scale][code] = static_cast<uint32_t>(e2m1_scaled(scale, code)) << 16;
    }
  }
};
inline constexpr E2m1Scaled kE2m1Scaled;

// 16 codes repeat through a register, and a shift brings each lane its own: codes 0, 8, 1, 9, ... No step crosses lanes
// but the lookup, which reads the low four bits of an index.
V4NPU_INLINE f32x32 load_e2m1_scaled(const uint8_t* p, uint8_t scale) {
  const __m512 table = _mm512_load_ps(reinterpret_cast<const float*>(kE2m1Scaled.of[scale]));
  const __m512i shift = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
  const auto sixteen = [&](const uint8_t* codes) __attribute__((always_inline)) -> f32x16 {
    int64_t bits;
    std::memcpy(&bits, codes, sizeof bits);
    return {_mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_set1_epi64(bits), shift), table)};
  };
  return {{sixteen(p), sixteen(p + kLanes / 2)}};
}
V4NPU_INLINE f32x16 arrange_e2m1(f32x16 v) {
  const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  return {_mm512_permutexvar_ps(order, v.v)};
}
template <int N>
V4NPU_INLINE void reduce_e2m1_each(const f32x16 (&v)[N], float* out) {
  reduce_by_each<1, 8, 4, 2>(v, out);
}

// Of normal codes: their bits where a float32 has them, 2^-120 of the value; a shift to the left leaves copies of the
// sign. Subnormal ones would be subnormal, which takes long to multiply.
constexpr float kE4m3Unit = 0x1p120f;
V4NPU_INLINE f32x16 load_e4m3_units(const uint8_t* p) {
  const __m512i codes = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i kept = _mm512_set1_epi32(static_cast<int>(0x87f0'0000));
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_slli_epi32(codes, 20), kept))};
}
V4NPU_INLINE bool has_e4m3_units(const uint8_t* p, int64_t n) {
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80)), least = _mm512_set1_epi8(static_cast<char>(0x88));
  __m512i largest = _mm512_setzero_si512();  // of magnitudes 8 to 0x7e, as 0 to 0x76
  for (int64_t i = 0; i < n; i += 64)
    largest = _mm512_max_epu8(largest, _mm512_sub_epi8(_mm512_or_si512(_mm512_loadu_si512(p + i), sign), least));
  return _mm512_cmplt_epu8_mask(largest, _mm512_set1_epi8(0x77)) == ~__mmask64{0};
}

}  // namespace v4npu::cpu::V4NPU_ISA

#include "no_bf16_dot.h"
