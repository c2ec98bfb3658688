// swiglu: the clamped gated activation of an expert.
//   out = silu(min(gate, limit)) * clamp(up, -limit, limit) * weights[t]      (gate has no lower clamp)
// Steps:
//   1 widen to fp32   2 clamp, unless limit is 0   3 silu(a) = a * sigmoid(a), times up   4 times weights
//   5 one rounding, to the dtype of gate
// The routing weight enters here, before the rounding that feeds w2.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct SwigluParams {
  const void* gate;      // T    [num_tokens, intermediate_size]
  const void* up;        // T    [num_tokens, intermediate_size]
  const float* weights;  // fp32 [num_tokens]                       may be null = all ones
  void* out;             // T    [num_tokens, intermediate_size]
  int64_t num_tokens;
  int64_t intermediate_size;
  float limit;  // 0 = no clamp
  Dtype dtype;  // T
};

}  // namespace v4npu
