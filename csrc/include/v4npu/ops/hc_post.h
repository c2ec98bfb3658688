// hc_post: returns a sublayer's output to the residual streams.
//   out[t,k] = post[t,k] x[t] + sum_j comb[t,j,k] streams[t,j]         (the sum runs over comb's first index)
// Steps:
//   1 widen x and streams to fp32   2 mix the streams   3 add post * x   4 one rounding, to the dtype of streams
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct HcPostParams {
  const void* x;        // T    [num_tokens, hidden_size]
  const void* streams;  // T    [num_tokens, hc_mult, hidden_size]
  const float* post;    // fp32 [num_tokens, hc_mult]
  const float* comb;    // fp32 [num_tokens, hc_mult, hc_mult]
  void* out;            // T    [num_tokens, hc_mult, hidden_size]    may be streams
  int64_t num_tokens;
  int64_t hc_mult;
  int64_t hidden_size;
  Dtype dtype;  // T
};

}  // namespace v4npu
