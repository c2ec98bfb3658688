// gate: chooses the experts of a token by a learned score.
// Steps, all in fp32 (fp64 when x is fp64):
//   1 logits = x W^T, both widened   2 s = sqrt(softplus(logits))
//   3 the topk largest of s + bias, best first; among equal values the smaller index. bias steers the choice only
//     NaN counts as the largest value, so indices are always valid and the weights of such a token are NaN
//   4 weights = s[chosen] / sum(s[chosen]) * route_scale
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct GateParams {
  const void* x;          // T     [num_tokens, hidden_size]
  const void* weight;     // any floating point [num_experts, hidden_size]
  const float* bias;      // fp32  [num_experts]                    may be null
  int32_t* topk_indices;  // int32 [num_tokens, topk]
  float* topk_weights;    // fp32  [num_tokens, topk]
  float* scores;          // fp32  [num_tokens, num_experts]        workspace
  int64_t num_tokens;
  int64_t hidden_size;
  int64_t num_experts;
  int64_t topk;
  float route_scale;
  Dtype dtype;  // T
  Dtype weight_dtype;
};

}  // namespace v4npu
