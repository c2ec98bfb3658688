// The rotation of a row, by the steps of v4npu/ops/rope.h.
#pragma once

#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

// 1 angle, rounded once   2 cos, sin. Of one position: both lanes of a pair hold its own factor.
V4NPU_INLINE void angles(int64_t position, const float* freqs, int64_t rope_dim, bool inverse, float* cosines,
                         float* sines) {
  for (int64_t i = 0; i < rope_dim; i += 2) {
    const float angle = static_cast<float>(position) * freqs[i / 2];
    cosines[i] = cosines[i + 1] = __builtin_cosf(angle);
    const float sine = __builtin_sinf(angle);
    sines[i] = inverse ? sine : -sine;
    sines[i + 1] = -sines[i];
  }
}

// 3 (a cos - b sin, b cos + a sin)   4 one rounding. out may be x.
template <class T>
V4NPU_INLINE void turn(const T* x, const float* cosines, const float* sines, int64_t rope_dim, T* out) {
  for (int64_t i = 0; i < rope_dim; i += kLanes) {
    const int64_t n = rope_dim - i;
    const f32x16 v = load_upto(x + i, n);
    store_upto(out + i, fma(v, load_upto(cosines + i, n), swap_pairs(v) * load_upto(sines + i, n)), n);
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
