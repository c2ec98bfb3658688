// hc_head: collapses the residual streams before the final norm.
// Steps (x = the streams of a token, flattened stream-major, fp32):
//   1 mix = (fn x) * rsqrt(mean(x^2) + norm_eps)   2 pre[i] = sigmoid(mix[i] scale[0] + base[i]) + hc_eps
//   3 y = sum_i pre[i] x_i   4 one rounding, to the dtype of streams
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct HcHeadParams {
  const void* streams;  // T    [num_tokens, hc_mult, hidden_size]
  const float* fn;      // fp32 [hc_mult, hc_mult*hidden_size]
  const float* scale;   // fp32 [1]
  const float* base;    // fp32 [hc_mult]
  void* y;              // T    [num_tokens, hidden_size]
  float* mix;           // fp32 [num_tokens, hc_mult]                     workspace
  int64_t num_tokens;
  int64_t hc_mult;
  int64_t hidden_size;
  float norm_eps;
  float hc_eps;
  Dtype dtype;  // T
};

}  // namespace v4npu
