// grouped_linear: one matrix per group of heads, the first half of the output projection (wo_a).
//   out[t,g,n] = sum_k x[t,g,k] * weight[g*rows_per_group + n, k]
// Steps:
//   1 expand an e4m3 weight by its scale and round to the dtype of x (exact in bf16): x itself is never quantised here
//   2 dot in fp32   3 one rounding, to the dtype of x
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct GroupedLinearParams {
  const void* x;                // T      [num_tokens, num_groups, k]
  const void* weight;           // T or e4m3fn [num_groups*rows_per_group, k]
  const uint8_t* weight_scale;  // ue8m0  [ceil(num_groups*rows_per_group/128), ceil(k/128)]   null: weight is T
  void* out;                    // T      [num_tokens, num_groups, rows_per_group]
  int64_t num_tokens;
  int64_t num_groups;
  int64_t rows_per_group;
  int64_t k;
  void* workspace;          // bytes [the backend's need]
  int64_t num_workers;      // that workspace has room for
  int64_t block_tokens[2];  // that a CPU thread takes at a time, in float32 and in bfloat16; plan/cpu_tiles.h
  Dtype dtype;              // T
  // of weight
  enum class Format : int32_t { kFloat32, kBfloat16, kFp8 } format;
};

}  // namespace v4npu
