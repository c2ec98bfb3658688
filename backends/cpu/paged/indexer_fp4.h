// FP4 index keys as indexer.h wants them on AVX-512.
#pragma once

#include "paged/rows.h"

namespace v4npu::cpu::V4NPU_ISA {

// 16 fp4_key rows of a multiple of 128 values to out [dim/2, 16] of pairs: the nibbles are turned before they are
// widened, which is a quarter of the work. False when integers cannot do it: a scale whose products leave the normal
// range of bfloat16.
V4NPU_INLINE bool turn_fp4(const RowAt (&rows)[kLanes], int64_t dim, float* out) {
  alignas(64) static const uint16_t kValues[32] = {0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                   0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
                                                   0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                   0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
  const __m512i values = _mm512_load_si512(kValues), magnitude = _mm512_set1_epi16(0x7fff);
  const __m512i nibbles = _mm512_set1_epi32(4 << 16);  // by how much to shift the upper of two
  // Byte i of every 32-bit lane into both halves of that lane.
  const __m128i lanes = _mm_setr_epi32(0, 0x00040004, 0x00080008, 0x000c000c);
  __m512i byte[4];
  for (int i = 0; i < 4; ++i) {
    const __m128i pick = _mm_add_epi32(lanes, _mm_set1_epi32(static_cast<int>(0x80008000u + 0x00010001u * i)));
    byte[i] = _mm512_broadcast_i32x4(_mm_or_si128(pick, _mm_set1_epi32(static_cast<int>(0x80008000u))));
  }
  for (int64_t first = 0; first < dim; first += 128) {
    __m512i v[kLanes];
    alignas(64) int32_t scale[kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) {
      v[k] = _mm512_loadu_si512(rows[k].payload + first / 2);
      std::memcpy(scale + k, rows[k].scales + first / kFp4Block, sizeof scale[k]);
    }
    const __m512i scales = _mm512_load_si512(scale);
    const __m512i beyond =
        _mm512_subs_epu8(_mm512_sub_epi8(scales, _mm512_set1_epi8(2)), _mm512_set1_epi8(static_cast<char>(250)));
    if (_mm512_test_epi32_mask(beyond, beyond) != 0) return false;
    transpose(v);
#pragma GCC unroll 4
    for (int block = 0; block < 4; ++block) {
      const __m512i exponent = _mm512_sub_epi16(_mm512_shuffle_epi8(scales, byte[block]), _mm512_set1_epi16(kE8m0Bias));
      const __m512i shift = _mm512_slli_epi16(exponent, 7);
#pragma GCC unroll 4
      for (int j = 4 * block; j < 4 * block + 4; ++j) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          // An index is five bits; the fifth, of the neighbouring nibble, only picks the second copy of the table.
          const __m512i codes = _mm512_srlv_epi16(_mm512_shuffle_epi8(v[j], byte[i]), nibbles);
          const __m512i pair = _mm512_permutexvar_epi16(codes, values);
          const __mmask32 some = _mm512_test_epi16_mask(pair, magnitude);
          _mm512_storeu_si512(out + (first / 2 + 4 * j + i) * kLanes, _mm512_mask_add_epi16(pair, some, pair, shift));
        }
      }
    }
  }
  return true;
}

}  // namespace v4npu::cpu::V4NPU_ISA
