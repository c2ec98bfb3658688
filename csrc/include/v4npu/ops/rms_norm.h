// rms_norm: scales every row to unit root mean square.
//   out[r,i] = x[r,i] / sqrt(mean_i(x[r,i]^2) + eps) * weight[i]
// Steps, numbered alike in every backend (all arithmetic in fp32, fp64 when x is fp64):
//   1 widen x   2 mean of squares over n   3 times rsqrt(mean + eps)   4 times weight, widened
//   5 one rounding, to the dtype of x
// A row is summed in an order that depends on n alone.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct RmsNormParams {
  const void* x;       // T    [num_rows, n]
  const void* weight;  // any floating point [n]            may be null = all ones
  void* out;           // T    [num_rows, n]
  int64_t num_rows;
  int64_t n;
  float eps;
  Dtype dtype;         // T
  Dtype weight_dtype;  // of weight; unread when it is null
};

}  // namespace v4npu
