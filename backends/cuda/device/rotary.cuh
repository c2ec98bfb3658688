// RoPE of one pair: steps 1 to 3 of rope.h.
#pragma once

#include "device.cuh"
#include "shape.h"

namespace v4npu::cuda {

struct Turn {
  float cosine, sine;
};

// 1 angle, rounded once   2 cos, sin
V4NPU_INLINE Turn turn_of(int64_t position, float freq, bool inverse) {
  float sine, cosine;
  sincosf(static_cast<float>(position) * freq, &sine, &cosine);
  return {cosine, inverse ? -sine : sine};
}
// 3 (a cos - b sin, a sin + b cos), with the roundings of the CPU's
V4NPU_INLINE void turn_pair(float& a, float& b, Turn t) {
  const float even = fmaf(a, t.cosine, b * -t.sine), odd = fmaf(b, t.cosine, a * t.sine);
  a = even;
  b = odd;
}

// Those of a token, for all its heads, in shared memory.
template <int64_t Pairs>
struct Turns {
  Turn of[Pairs];

  // The first `count`, by a block of threads; others may read them behind its next barrier.
  V4NPU_INLINE void fill(int64_t position, const float* freqs, int64_t count, bool inverse) {
    for (int64_t i = thread_id(); i < count; i += kRowThreads) of[i] = turn_of(position, freqs[i], inverse);
  }
};

}  // namespace v4npu::cuda
