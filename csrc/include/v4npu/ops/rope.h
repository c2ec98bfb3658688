// rope: rotates the interleaved pairs of the last rope_dim values by an angle that grows with the position.
//   (out[2i], out[2i+1]) = (x[2i] + j x[2i+1]) * exp(+-j * positions[t] * freqs[i]),   i < rope_dim/2
// Steps:
//   1 angle = fp32(float(position) * freq), rounded once before sin and cos: at a million tokens that rounding
//     reaches 0.03 rad, so a finer angle is a different result
//   2 cos, sin in fp32 (fp64 of the rounded angle when x is fp64); inverse negates sin
//   3 (a cos - b sin, a sin + b cos) in fp32   4 one rounding, to the dtype of x
// The first head_dim - rope_dim values of a row are copied unchanged.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct RopeParams {
  const void* x;             // T     [num_tokens, num_heads, head_dim]
  const int64_t* positions;  // int64 [num_tokens]                        absolute, 0-based
  const float* freqs;        // fp32  [rope_dim/2]                        radians per token
  void* out;                 // T     [num_tokens, num_heads, head_dim]   may be x
  int64_t num_tokens;
  int64_t num_heads;  // the product of all axes between the first and the last
  int64_t head_dim;
  int64_t rope_dim;
  bool inverse;
  Dtype dtype;  // T
};

}  // namespace v4npu
