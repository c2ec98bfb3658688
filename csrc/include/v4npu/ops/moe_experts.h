// moe_experts: the routed experts of every token, summed, and what a shared expert made of it.
//   out[t] = sum over the chosen e, ascending:  w2[e] swiglu(w1[e] x[t], w3[e] x[t], topk_weights[t,e])  + shared[t]
// Steps:
//   1 quantise x once, FP8 with one scale per 128 (act_quant.h); serves w1 and w3
//   2 a = w1 x, u = w3 x, rounded to the dtype of x   3 swiglu (swiglu.h) with the routing weight, rounded
//   4 quantise, as step 1   5 y = w2 of it, rounded to the dtype of x
//   6 fp32 sum of y over the chosen experts in ascending index, whatever their order in topk_indices
//   7 where shared is given: added to the sum, which is rounded to the dtype of x
// An index named twice by a token counts twice; one out of range is refused where the host can read it without waiting
// for a device: by the CPU and by the reference. Steps 1 and 4 happen when official and the weights are quantised.
// Weights: two e2m1 per byte with a ue8m0 scale per row and 32 columns, e4m3fn with a ue8m0 scale per 128x128 block, or
// the dtype of x without scales.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous. The matrices of two experts may lie
// apart: transformers keeps w1 and w3 as one tensor of gate and up rows, expert after expert.
struct MoeExpertsParams {
  const void* x;                // T     [num_tokens, hidden_size]
  const int32_t* topk_indices;  // int32 [num_tokens, topk]          each in 0 .. num_experts-1
  const float* topk_weights;    // fp32  [num_tokens, topk]
  const void* w1;               // gate: [num_experts, intermediate_size, hidden_size], or hidden_size/2 bytes of FP4
  const uint8_t* w1_scale;      // ue8m0 [num_experts, intermediate_size, hidden_size/32], or 128x128 blocks, or null
  const void* w3;               // up:   as w1
  const uint8_t* w3_scale;      // ue8m0 as w1_scale
  const void* w2;               // down: [num_experts, hidden_size, intermediate_size], or intermediate_size/2 bytes
  const uint8_t* w2_scale;      // ue8m0 as w1_scale, rows and columns swapped
  const void* shared;           // T     [num_tokens, hidden_size]   may be null
  void* out;                    // fp32  [num_tokens, hidden_size]   fp64 when x is fp64; T with shared
  int64_t num_tokens;
  int64_t hidden_size;
  int64_t intermediate_size;
  int64_t num_experts;
  int64_t rows_apart[2];  // from one expert's first row to the next's: of w1 and w3, and of w2
  int64_t topk;
  float swiglu_limit;  // 0 = no clamp
  enum class Format : int32_t { kPlain, kFp8, kFp4 } format;
  bool official;
  Dtype dtype;              // T
  Dtype weight_dtype;       // when kPlain
  void* workspace;          // bytes [the backend's need]
  int64_t num_workers;      // that workspace has room for
  int64_t block_tokens[2];  // that a CPU thread takes at a time, in float32 and in bfloat16; plan/cpu_tiles.h
};

}  // namespace v4npu
