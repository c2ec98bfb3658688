// What the quantisers' block scales follow from.
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

}  // namespace v4npu::cpu::V4NPU_ISA
