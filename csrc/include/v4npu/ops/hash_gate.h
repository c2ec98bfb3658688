// hash_gate: the experts of a token are looked up by its id; the gate still weighs them.
// Steps, all in fp32 (fp64 when x is fp64):
//   1 logits = x W^T, both widened   2 s = sqrt(softplus(logits))   3 chosen = tid2eid[input_ids[t]], in table order
//   4 weights = s[chosen] / sum(s[chosen]) * route_scale
// Ids and experts out of range are refused before anything is read.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct HashGateParams {
  const void* x;             // T     [num_tokens, hidden_size]
  const void* weight;        // any floating point [num_experts, hidden_size]
  const int64_t* tid2eid;    // int64 [vocab_size, topk]
  const int64_t* input_ids;  // int64 [num_tokens]
  int32_t* topk_indices;     // int32 [num_tokens, topk]
  float* topk_weights;       // fp32  [num_tokens, topk]
  int64_t num_tokens;
  int64_t hidden_size;
  int64_t num_experts;
  int64_t vocab_size;
  int64_t topk;
  float route_scale;
  Dtype dtype;  // T
  Dtype weight_dtype;
};

}  // namespace v4npu
