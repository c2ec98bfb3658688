// Blocks of a row to e4m3 and e2m1, a warp to a block. Scales are powers of two, so the product with the inverse is
// exact but for the clamp.
#pragma once

#include "rows.cuh"

namespace v4npu::cuda {

// The largest magnitude of n values, NaN if there is one; all lanes get it.
template <class T>
V4NPU_INLINE float warp_magnitude(const T* x, int64_t n) {
  float largest = 0.0f;
  for (int64_t i = lane_id(); i < n; i += kWarp) largest = larger_or_nan(largest, magnitude(widen(x[i])));
  return warp_max(largest);
}

V4NPU_INLINE uint8_t e2m1_clamped(float y) {
  return e2m1_encode(magnitude(y) > kE2m1Max ? (y > 0 ? kE2m1Max : -kE2m1Max) : y);
}
// e4m3_decode(e4m3_encode(x * inverse)) * scale, and its like for e2m1.
V4NPU_INLINE float round_e4m3(float x, uint8_t scale) {
  return e4m3_decode(e4m3_encode(x * e8m0_inverse(scale))) * e8m0_decode(scale);
}
V4NPU_INLINE float round_e2m1(float x, uint8_t scale) {
  return e2m1_decode(e2m1_clamped(x * e8m0_inverse(scale))) * e8m0_decode(scale);
}

}  // namespace v4npu::cuda
