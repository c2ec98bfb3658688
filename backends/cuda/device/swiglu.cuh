// Steps 2 and 3 of swiglu.h; a NaN stays one.
#pragma once

#include "device.cuh"

namespace v4npu::cuda {

V4NPU_INLINE float gated(float a, float u, float limit) {
  if (limit > 0.0f) {
    a = a > limit ? limit : a;
    u = u > limit ? limit : (u < -limit ? -limit : u);
  }
  return a / (1.0f + expf(-a)) * u;
}

}  // namespace v4npu::cuda
