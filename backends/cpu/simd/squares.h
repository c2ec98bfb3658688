// The sum of squares of a row, in one order for all norms, and the norm of v4npu/ops/rms_norm.h.
#pragma once

#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

// sum + x^2, the square rounded to S; not apart where that is float.
template <class S>
V4NPU_INLINE f32x16 add_square(f32x16 sum, f32x16 x) {
  if constexpr (sizeof(S) == sizeof(float)) {
    return fma(x, x, sum);
  } else {
    return sum + rounded<S>(x * x);
  }
}

// sum x^2, each square rounded to S. Four sums, so that an addition need not wait for the one before it.
template <class S, class T>
V4NPU_INLINE float sum_of_squares(const T* x, int64_t n) {
  constexpr int64_t kUnroll = 4 * kLanes;
  f32x16 sum[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + kUnroll <= n; i += kUnroll) {
    for (int j = 0; j < 4; ++j) sum[j] = add_square<S>(sum[j], load(x + i + j * kLanes));
  }
  for (; i < n; i += kLanes) sum[0] = add_square<S>(sum[0], load_upto(x + i, n - i));
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// out = x / rms(x) * weight, which may be null; out may be x.
template <class T, class W>
V4NPU_INLINE void norm_row(const T* x, const W* weight, float eps, T* out, int64_t n) {
  // 1 widen x   2 mean of squares
  const float mean = sum_of_squares<float>(x, n) / static_cast<float>(n);
  const f32x16 scale = set1(1.0f / __builtin_sqrtf(mean + eps));
  for (int64_t i = 0; i < n; i += kLanes) {
    f32x16 y = load_upto(x + i, n - i) * scale;                   // 3 times rsqrt
    if (weight != nullptr) y = y * load_upto(weight + i, n - i);  // 4 times weight
    store_upto(out + i, y, n - i);                                // 5 one rounding
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
