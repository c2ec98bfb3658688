// indexer_query: the indexer's queries, in the form its keys have.
// Steps:
//   1 rope at the token's position (rope.h), rounded
//   official only: 2 hadamard over the head (hadamard.h), rounded
//   and 3 T(e2m1 * scale) with one scale per 32 (fp4_act_quant.h); a block with a NaN becomes NaN
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct IndexerQueryParams {
  const void* q;             // T     [num_tokens, index_n_heads, index_head_dim]
  const int64_t* positions;  // int64 [num_tokens]                absolute, 0-based
  const float* freqs;        // fp32  [rope_dim/2]                radians per token
  void* out;                 // T     [num_tokens, index_n_heads, index_head_dim]
  int64_t num_tokens;
  int64_t num_heads;
  int64_t head_dim;  // a power of two when official
  int64_t rope_dim;
  bool official;
  Dtype dtype;  // T
};

}  // namespace v4npu
