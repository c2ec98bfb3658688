// indexer.h on AMX tiles: the heads of queries are the left operand, as they lie, and turned keys the right one.
#pragma once

#include "paged/rows.h"

namespace v4npu::cpu::V4NPU_ISA {

// 16 fp4_key rows of a multiple of 128 values to out [dim/2, 16] of pairs: the nibbles are turned before they are
// widened, which is a quarter of the work. False when integers cannot do it (decode_e2m1 in simd/amx.h).
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

// 32 columns by 32 keys to out [32, 32]; `row` floats from one column to the next, as many steps of pairs, and 16 times
// as many floats from one group of 16 keys to the next.
V4NPU_INLINE void tile_dots(const float* q, int64_t row, const float* keys, float* out) {
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  for (int64_t s = 0; s < row; s += kLanes) {
    tile_load<6>(keys + s * kLanes, 64);
    tile_load<7>(keys + (row + s) * kLanes, 64);
    tile_load<4>(q + s, row * 4);
    tile_load<5>(q + kLanes * row + s, row * 4);
    tile_dot<0, 4, 6>();
    tile_dot<1, 4, 7>();
    tile_dot<2, 5, 6>();
    tile_dot<3, 5, 7>();
  }
  tile_store<0>(out, 128);
  tile_store<1>(out + kLanes, 128);
  tile_store<2>(out + 32 * kLanes, 128);
  tile_store<3>(out + 33 * kLanes, 128);
}

// Steps 1 to 4 of indexer_scores.h for 32 keys and whole queries, whose heads are a multiple of 16: scores of 32 keys
// for each. The dots of 32 columns, 4 KiB, are used while they are in the first cache.
template <class Round>
V4NPU_INLINE void tile_scores(const float* q, int64_t row, const float* keys, const float* weights, int64_t heads,
                              int64_t columns, float* dots, float* scores, const Round& round) {
  f32x16 sum[2] = {zero(), zero()};
  int64_t left = heads;  // of the query
  for (int64_t first = 0; first < columns; first += 32) {
    tile_dots(q + first * row, row, keys, dots);
    for (int64_t c = 0; c < 32 && c < columns - first; c += kLanes) {
      f32x16 part[2] = {zero(), zero()};
      for (int64_t h = c; h < c + kLanes; ++h) {
        const f32x16 weight = set1(weights[first + h]);
        for (int v = 0; v < 2; ++v) {  // 2 relu, times weights; NaN passes   3 sum over heads
          const f32x16 dot = max(zero(), load(dots + (2 * h + v) * kLanes));
          part[v] = part[v] + round(round(dot) * weight);
        }
      }
      for (int v = 0; v < 2; ++v) sum[v] = sum[v] + part[v];
      left -= kLanes;
      if (left > 0) continue;
      for (int v = 0; v < 2; ++v, scores += kLanes) {
        store(scores, round(sum[v]));  // 4 widen
        sum[v] = zero();
      }
      left = heads;
    }
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
