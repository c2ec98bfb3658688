// The Hadamard transform of a row in a warp's registers: lane l holds elements [l E, l E + E), with E = max(1, n / 32).
// Butterflies run over bit 0, 1, ... of the index: first within a lane, then between lanes. Lanes behind the row idle.
#pragma once

#include "device.cuh"

namespace v4npu::cuda {

template <int E>
V4NPU_INLINE void warp_butterflies(float (&v)[E], int n) {
  V4NPU_UNROLL
  for (int bit = 1; bit < E; bit *= 2) {
    V4NPU_UNROLL
    for (int i = 0; i < E; ++i) {
      if ((i & bit) != 0) continue;
      const float a = v[i], b = v[i + bit];
      v[i] = a + b;
      v[i + bit] = a - b;
    }
  }
  for (int bit = 1; bit * E < n; bit *= 2) {
    const bool upper = (lane_id() & bit) != 0;
    V4NPU_UNROLL
    for (int i = 0; i < E; ++i) {
      const float other = bits_float(shuffle_xor(float_bits(v[i]), bit));
      v[i] = upper ? other - v[i] : v[i] + other;
    }
  }
}

// n^-0.5 of a power of two, correctly rounded.
V4NPU_INLINE float hadamard_factor(int n) {
  int exponent = 0;
  while ((1 << exponent) < n) ++exponent;
  const float power = bits_float(static_cast<uint32_t>(kE8m0Bias - exponent / 2) << 23);
  return exponent % 2 == 0 ? power : power * 0x1.6a09e6p-1f;
}

}  // namespace v4npu::cuda
