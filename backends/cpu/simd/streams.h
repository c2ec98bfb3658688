// What hc_pre and hc_head share: the inverse RMS of a token's streams, and their weighted sum.
#pragma once

#include "simd.h"
#include "simd/squares.h"

namespace v4npu::cpu::V4NPU_ISA {

// values[0..count) times rsqrt(mean(x^2) + eps), the mean over n.
template <class T>
V4NPU_INLINE void normalise_mix(float* values, int64_t count, const T* x, int64_t n, float eps) {
  const float mean = sum_of_squares<float>(x, n) / static_cast<float>(n);
  const float inverse = 1.0f / __builtin_sqrtf(mean + eps);
  for (int64_t r = 0; r < count; ++r) values[r] *= inverse;
}

// out[i] = sigmoid(mix[i] scale + base[i]), times `factor`, plus `shift`; out may be mix.
V4NPU_INLINE void weights(float* out, const float* mix, const float* base, int64_t m, float scale, float factor,
                          float shift) {
  for (int64_t i = 0; i < m; i += kLanes) {
    const f32x16 v = load_upto(mix + i, m - i) * set1(scale) + load_upto(base + i, m - i);
    store_upto(out + i, sigmoid(v) * set1(factor) + set1(shift), m - i);
  }
}

// y = sum_i pre[i] x_i over m streams of d values, one rounding.
template <class T>
V4NPU_INLINE void collapse(T* y, const T* x, const float* pre, int64_t m, int64_t d) {
  for (int64_t i = 0; i < d; i += kLanes) {
    f32x16 sum = zero();
    for (int64_t j = 0; j < m; ++j) sum = fma(set1(pre[j]), load_upto(x + j * d + i, d - i), sum);
    store_upto(y + i, sum, d - i);
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
