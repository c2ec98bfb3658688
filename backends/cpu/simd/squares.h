// The sum of squares of a row, in one order for all norms.
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

}  // namespace v4npu::cpu::V4NPU_ISA
