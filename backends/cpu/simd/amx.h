// simd.h on AVX-512 with AMX: avx512.h, and matrix tiles of bfloat16 for gemm_amx.h. A tile is 16 rows of 64 bytes.
//
// The compiler does not know that a tile instruction reads or writes memory (GCC's own intrinsics before 13 do not say
// so), hence the clobbers.
#pragma once

#include "avx512.h"

#define V4NPU_HAS_AMX 1

namespace v4npu::cpu::V4NPU_ISA {

template <int kTile>
V4NPU_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kTile>
V4NPU_INLINE void tile_load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
V4NPU_INLINE void tile_store(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
// c[i][j] += sum over k of a[i][k] b[k / 2][j][k % 2]. Even and odd k are summed apart in fp32, then added to c; the
// order is the same for every i and j. Subnormal numbers count as zero.
template <int kC, int kA, int kB>
V4NPU_INLINE void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

// All tiles 16 rows; 0 to 3 and 6, 7 (sums and the right operand) `columns` of 4 bytes, 4 and 5 (left operand) 64
// bytes.
V4NPU_INLINE void tile_configure(int columns) {
  alignas(64) uint8_t config[64] = {1};
  for (int i = 0; i < 8; ++i) {
    config[16 + 2 * i] = static_cast<uint8_t>(i == 4 || i == 5 ? 64 : 4 * columns);
    config[48 + i] = 16;
  }
  asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
// Leaves no tile state for the kernel to save at every context switch.
V4NPU_INLINE void tile_release() { asm volatile("tilerelease"); }

// As of floats: bits are moved, none is looked at.
V4NPU_INLINE void transpose(__m512i (&v)[16]) {
  f32x16 t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) t[i].v = _mm512_castsi512_ps(v[i]);
  transpose(t);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = _mm512_castps_si512(t[i].v);
}

// ---- codes, scaled, to groups of 32 bfloat16, `step` values apart. False when integers cannot do it: a scale whose
// products leave the normal range of bfloat16, or a NaN.

// GROUPS * 32 codes of one scale; GROUPS is even.
template <int GROUPS>
V4NPU_INLINE bool decode_e4m3(const uint8_t* p, uint8_t scale, bf16* out, int64_t step) {
  if (scale < 10 || scale > 246) return false;
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80)), all = _mm512_set1_epi8(-1);
  __mmask64 nan = 0;
#pragma GCC unroll 2
  for (int i = 0; i < GROUPS / 2; ++i) {
    nan |= _mm512_cmpeq_epi8_mask(_mm512_or_si512(_mm512_loadu_si512(p + int64_t{64} * i), sign), all);
  }
  if (nan != 0) return false;
  const auto exponent = static_cast<short>((scale - kE8m0Bias) * 128);
  const __m512i shift = _mm512_set1_epi16(exponent), bias = _mm512_add_epi16(shift, _mm512_set1_epi16(120 * 128));
  // bfloat16 of 0 .. 7 times 2^-9: the subnormals, which an exponent cannot be added to.
  alignas(64) static const uint16_t kSubnormal[32] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
  const __m512i table = _mm512_mask_add_epi16(_mm512_setzero_si512(), 0xfe, _mm512_load_si512(kSubnormal), shift);
#pragma GCC unroll 4
  for (int i = 0; i < GROUPS; ++i) {
    const __m512i codes =
        _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + int64_t{32} * i)));
    const __m512i shifted = _mm512_slli_epi16(codes, 4);  // exponent and mantissa in place, the sign at bit 15
    const __m512i normal = _mm512_add_epi16(_mm512_and_si512(shifted, _mm512_set1_epi16(0x7f0)), bias);
    const __mmask32 subnormal = _mm512_testn_epi16_mask(shifted, _mm512_set1_epi16(0x780));
    const __m512i magnitude = _mm512_mask_permutexvar_epi16(normal, subnormal, codes, table);
    const __m512i value = _mm512_ternarylogic_epi32(_mm512_set1_epi16(0x7fff), magnitude, shifted, 0xca);
    _mm512_storeu_si512(out + i * step, value);
  }
  return true;
}

// What scaling adds to two neighbouring bfloat16; read from memory because a broadcast from there is free.
struct ShiftTable {
  uint32_t of[256];
  constexpr ShiftTable() : of() {
    for (int i = 0; i < 256; ++i) of[i] = (static_cast<uint32_t>(i - kE8m0Bias) * 128 & 0xffff) * 0x10001;
  }
};

// `scale`: one for every 32 codes.
V4NPU_INLINE bool decode_e2m1(const uint8_t* p, const uint8_t* scale, bf16* out, int64_t step) {
  alignas(64) static const uint16_t kValues[32] = {0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                   0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
                                                   0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                   0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
  int32_t scales;
  std::memcpy(&scales, scale, sizeof scales);
  const __m128i beyond =
      _mm_subs_epu8(_mm_sub_epi8(_mm_cvtsi32_si128(scales), _mm_set1_epi8(2)), _mm_set1_epi8(static_cast<char>(250)));
  if (_mm_cvtsi128_si32(beyond) != 0) return false;
  static constexpr ShiftTable kShift;
  const __m512i values = _mm512_load_si512(kValues);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i shift = _mm512_set1_epi32(static_cast<int>(kShift.of[scale[i]]));
    const __m512i table = _mm512_mask_add_epi16(values, 0xfefefefe, values, shift);
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + int64_t{16} * i)));
    // Both nibbles at the bottom of a half. An index is five bits; the fifth only picks the second copy of the table.
    const __m512i codes = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
    _mm512_storeu_si512(out + i * step, _mm512_permutexvar_epi16(codes, table));
  }
  return true;
}

}  // namespace v4npu::cpu::V4NPU_ISA
