// qkv_prepare: everything between the q and kv projections and attention, and the store into the window cache.
// Steps:
//   1 q *= rsqrt(mean(q^2) + eps) per head, no weight. official: square, mean, its sum with eps, rsqrt and product
//     each round to the dtype of q; otherwise fp32 and one rounding
//   2 rope of q at its position (rope.h), rounded to the dtype of q
//   3 kv = rms_norm(kv, kv_norm_weight, eps), rounded   4 rope of kv, rounded
//   5 official: the first head_dim - rope_dim values of kv become T(e4m3 * scale) with one scale per 64 (act_quant.h);
//     the rotated ones stay as they are. The row is both key and value.
//   6 the row of slot_mapping[t] in window_cache = kv[t] where the slot is not negative; slots of a call are distinct.
//     Slot s is row s % block_size of page s / block_size. Packed (official only): the e4m3 values and scales of step 5
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct QkvPrepareParams {
  const void* q;               // T     [num_tokens, num_heads, head_dim]
  const void* kv;              // T     [num_tokens, head_dim]
  const void* kv_norm_weight;  // any floating point [head_dim]
  const int64_t* positions;    // int64 [num_tokens]                  absolute, 0-based
  const float* freqs;          // fp32  [rope_dim/2]                  radians per token
  void* q_out;                 // T     [num_tokens, num_heads, head_dim]
  void* kv_out;                // T     [num_tokens, head_dim]
  void* window_cache;  // T     [num_blocks, block_size, head_dim] or packed uint8 (row_format.h, fp8_kv); null with
                       //       slot_mapping
  const int64_t* slot_mapping;  // int64 [num_tokens]                  -1 = not stored
  int64_t num_tokens;
  int64_t num_heads;
  int64_t head_dim;
  int64_t rope_dim;
  int64_t block_size;    // rows per page
  int64_t block_stride;  // bytes from one page to the next
  float eps;
  bool packed;  // T is bf16
  bool official;
  Dtype dtype;         // T
  Dtype weight_dtype;  // of kv_norm_weight
};

}  // namespace v4npu
