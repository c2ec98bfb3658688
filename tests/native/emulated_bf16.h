// Included before everything else where a machine has AVX-512 with VBMI but no BF16: the two instructions that are
// missing, as they are described; not compared with a machine's.
#pragma once

#include <immintrin.h>

#include <cstring>

static inline __m512 emulated_dpbf16_ps(__m512 acc, __m512bh a, __m512bh b) {
  __m512i x, y;
  std::memcpy(&x, &a, sizeof x);
  std::memcpy(&y, &b, sizeof y);
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040);  // subnormal inputs and results are zero
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const __m512 odd_a = _mm512_castsi512_ps(_mm512_and_si512(x, upper));
  const __m512 odd_b = _mm512_castsi512_ps(_mm512_and_si512(y, upper));
  const __m512 even_a = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
  const __m512 even_b = _mm512_castsi512_ps(_mm512_slli_epi32(y, 16));
  acc = _mm512_fmadd_ps(even_a, even_b, _mm512_fmadd_ps(odd_a, odd_b, acc));
  _mm_setcsr(mode);
  return acc;
}

static inline __m256bh emulated_cvtneps_pbh(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v), exponent = _mm512_set1_epi32(0x7f800000);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i half = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i cut = _mm512_srli_epi32(bits, 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __mmask16 normal = _mm512_test_epi32_mask(bits, exponent);
  half = _mm512_mask_or_epi32(half, nan, cut, _mm512_set1_epi32(0x40));
  half = _mm512_mask_and_epi32(half, static_cast<__mmask16>(~normal), cut, _mm512_set1_epi32(0x8000));
  const __m256i narrow = _mm512_cvtepi32_epi16(half);
  __m256bh out;
  std::memcpy(&out, &narrow, sizeof out);
  return out;
}

#define __AVX512BF16__ 1
#define _mm512_dpbf16_ps emulated_dpbf16_ps
#define _mm512_cvtneps_pbh emulated_cvtneps_pbh
