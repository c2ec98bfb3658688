// fp8_linear: out = x W^T with W in FP8.
//   out[t,n] = sum_k x[t,k] x_scale[t,k/128] * weight[n,k] weight_scale[n/128,k/128]
// Steps:
//   1 load x and weight   2 fp32 dot over each 128 of k   3 times x_scale * weight_scale   4 fp32 sum over the blocks
//   5 one rounding, to out_dtype
// Scales are powers of two: applying them before or after step 2 changes only the order of the sum. Without x_scale,
// x and weight * weight_scale are taken in out_dtype. fp64 out accumulates in fp64.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct Fp8LinearParams {
  const void* x;                // e4m3fn [num_tokens, k], or floating point when x_scale is null
  const uint8_t* x_scale;       // ue8m0  [num_tokens, ceil(k/128)]            may be null
  const uint8_t* weight;        // e4m3fn [num_rows, k]
  const uint8_t* weight_scale;  // ue8m0  [ceil(num_rows/128), ceil(k/128)]
  void* out;                    // out_dtype [num_tokens, num_rows]
  int64_t num_tokens;
  int64_t num_rows;
  int64_t k;
  void* workspace;          // bytes [the backend's need]
  int64_t num_workers;      // that workspace has room for
  int64_t block_tokens[2];  // that a CPU thread takes at a time, in float32 and in bfloat16; plan/cpu_tiles.h
  Dtype x_dtype;            // of x when x_scale is null
  Dtype out_dtype;
};

}  // namespace v4npu
