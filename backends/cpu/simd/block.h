// What quantisers do to a block: the magnitude that its scale follows from, and its codes.
#pragma once

#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

// max |x|, NaN if there is one.
template <class T>
V4NPU_INLINE float largest_magnitude(const T* x, int64_t n) {
  f32x16 amax = zero();
  for (int64_t i = 0; i < n; i += kLanes) amax = max_bits(amax, keep_bits(load_upto(x + i, n - i), 0x7fffffff));
  return reduce_max_bits(amax);
}

// The codes of x[0, n) times `inverse`: a byte each.
template <class T>
V4NPU_INLINE void encode_e4m3(const T* x, int64_t n, float inverse, uint8_t* codes) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_e4m3(codes + i, load(x + i) * set1(inverse));
  if (i == n) return;
  uint8_t tail[kLanes];
  store_e4m3(tail, load_partial(x + i, static_cast<int>(n - i)) * set1(inverse));
  std::memcpy(codes + i, tail, static_cast<size_t>(n - i));
}

// Likewise two to a byte; n is even.
template <class T>
V4NPU_INLINE void encode_e2m1(const T* x, int64_t n, float inverse, uint8_t* codes) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_e2m1(codes + i / 2, load(x + i) * set1(inverse));
  if (i == n) return;
  uint8_t tail[kLanes / 2];
  store_e2m1(tail, load_partial(x + i, static_cast<int>(n - i)) * set1(inverse));
  std::memcpy(codes + i / 2, tail, static_cast<size_t>(n - i) / 2);
}

}  // namespace v4npu::cpu::V4NPU_ISA
