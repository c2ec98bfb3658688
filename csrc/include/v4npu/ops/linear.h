// linear: out = x W^T with W in floating point, for every product of the model whose weight is not quantised.
//   out[t,n] = sum_k x[t,k] weight[n,k]
// Steps:
//   1 widen x and weight, exactly   2 dot in fp32, in an order that depends on k alone   3 one rounding, to out_dtype
// fp64 when x or weight is. A backend may take subnormal bf16 values for zero.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// Rows are contiguous.
struct LinearParams {
  const void* x;       // fp32, fp64, bf16 or fp16 [num_tokens, k]
  const void* weight;  // likewise, on its own     [num_rows, k]
  void* out;           // out_dtype                [num_tokens, num_rows]
  int64_t num_tokens;
  int64_t num_rows;
  int64_t k;
  void* workspace;          // bytes [the backend's need]
  int64_t num_workers;      // that workspace has room for
  int64_t block_tokens[2];  // that a CPU thread takes at a time, in float32 and in bfloat16; plan/cpu_tiles.h
  Dtype x_dtype;
  Dtype weight_dtype;
  Dtype out_dtype;
};

}  // namespace v4npu
