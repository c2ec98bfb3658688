// The Walsh-Hadamard transform of a row, by the steps of v4npu/ops/hadamard.h. Every sum is the reference's own,
// in its order, so results are the same on every instruction set.
#pragma once

#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

constexpr float kBitSigns[4][kLanes] = {{1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
                                        {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
                                        {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
                                        {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}};

// Butterflies over the bits of the lane that a row of n values has: the product with the sign is exact.
V4NPU_INLINE f32x16 butterflies(f32x16 v, int64_t n) {
  if (n > 1) v = fma(v, load(kBitSigns[0]), swap_lanes<1>(v));
  if (n > 2) v = fma(v, load(kBitSigns[1]), swap_lanes<2>(v));
  if (n > 4) v = fma(v, load(kBitSigns[2]), swap_lanes<4>(v));
  if (n > 8) v = fma(v, load(kBitSigns[3]), swap_lanes<8>(v));
  return v;
}

// Unscaled and in place; n is a power of two, and `row` has room for 16.
V4NPU_INLINE void transform(float* row, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(row + i, butterflies(load(row + i), n));
  for (int64_t half = kLanes; half < n; half *= 2) {
    for (int64_t first = 0; first < n; first += 2 * half) {
      for (int64_t i = first; i < first + half; i += kLanes) {
        const f32x16 a = load(row + i), b = load(row + i + half);
        store(row + i, a + b);
        store(row + i + half, a - b);
      }
    }
  }
}

V4NPU_INLINE float hadamard_norm(int64_t n) { return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(n))); }

// `norm` is hadamard_norm(n); `row` has room for n values in whole vectors; out may be x.
template <class T>
V4NPU_INLINE void hadamard_row(const T* x, int64_t n, float norm, float* row, T* out) {
  for (int64_t i = 0; i < n; i += kLanes) store(row + i, load_upto(x + i, n - i));                 // 1 widen
  transform(row, n);                                                                               // 2 butterflies
  for (int64_t i = 0; i < n; i += kLanes) store_upto(out + i, load(row + i) * set1(norm), n - i);  // 3, 4 one rounding
}

}  // namespace v4npu::cpu::V4NPU_ISA
