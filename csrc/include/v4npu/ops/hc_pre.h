// hc_pre: mixes hc_mult residual streams into one sublayer input, and prepares how its output returns to them.
// m = hc_mult, d = hidden_size, x = the streams of a token, flattened stream-major to m*d values, fp32 throughout.
// Steps:
//   1 mix = (fn x) * rsqrt(mean(x^2) + norm_eps): the product first, then the scalar; (2+m)m values
//   2 pre[i]  = sigmoid(mix[i] scale[0] + base[i]) + hc_eps
//   3 post[i] = 2 sigmoid(mix[m+i] scale[1] + base[m+i])
//   4 L[j,k]  = mix[2m+jm+k] scale[2] + base[2m+jm+k]
//   5 Sinkhorn: C = softmax over k of L (row maximum subtracted), C += hc_eps, C /= (column sum + hc_eps), then
//     sinkhorn_iters-1 times C /= (row sum + hc_eps), C /= (column sum + hc_eps). The last pass is over columns.
//   6 y = sum_i pre[i] x_i, one rounding to the dtype of streams. post and comb stay fp32.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct HcPreParams {
  const void* streams;  // T    [num_tokens, hc_mult, hidden_size]
  const float* fn;      // fp32 [(2+hc_mult)*hc_mult, hc_mult*hidden_size]
  const float* scale;   // fp32 [3]
  const float* base;    // fp32 [(2+hc_mult)*hc_mult]
  void* y;              // T    [num_tokens, hidden_size]
  float* post;          // fp32 [num_tokens, hc_mult]
  float* comb;          // fp32 [num_tokens, hc_mult, hc_mult]
  float* mix;           // fp32 [num_tokens, (2+hc_mult)*hc_mult]         workspace
  int64_t num_tokens;
  int64_t hc_mult;
  int64_t hidden_size;
  float norm_eps;
  float hc_eps;
  int32_t sinkhorn_iters;
  Dtype dtype;  // T
};

}  // namespace v4npu
