// window_attention: each query attends to the last `window` tokens of its sequence, itself among them.
//   out[t,h] = sum_j softmax_j(scale * <q[t,h], kv[j]>, sink[h]) kv[j],   j in max(0, t-window+1) .. t, oldest first
// Steps:
//   1 load q   2 gather kv   3 scores = scale * fp32 dot   4 online softmax   5 accumulate p * kv in fp32
//   6 sink, normalise   7 one rounding, to the dtype of q   8 where positions are given: rope of it (rope.h), inverse
// official: the list is walked in blocks of 64, its window part taking `window` places with the absent ones last; p =
// exp(score - running maximum) is rounded to bf16 (when q is bf16) for step 5, while the denominator sums it
// unrounded; both are rescaled when the maximum grows. The sink joins the denominator only, at the end: exp(sink -
// maximum). It has no value row and no part in the maximum. A backend may begin the running maximum anew at places of a
// long list that follow from its length alone, and join the parts in order.
// Pages: only those that hold a visible row are looked at, so the table's other places may hold anything (-1). A packed
// row is widened to bf16 values: e4m3 * scale is exact there.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct WindowAttentionParams {
  const void* q;          // T     [num_tokens, num_heads, head_dim]
  const void* window_kv;  // T     [num_blocks, window_block, head_dim] or packed uint8 (row_format.h, fp8_kv)
  const int32_t*
      window_table;  // int32 [num_seqs, max_window_blocks]        position p of b: window_table[b, p/window_block]
  const int32_t* cu_seqlens_q;  // int32 [num_seqs+1]                         token offsets in this call
  const int32_t* start_pos;     // int32 [num_seqs]                           tokens seen before this call
  const float* attn_sink;       // fp32  [num_heads]                          may be null = no sink
  const int64_t* positions;     // int64 [num_tokens]                         may be null: no step 8
  const float* freqs;           // fp32  [turned_dim/2]                       null with positions
  void* out;                    // T     [num_tokens, num_heads, head_dim]
  int64_t num_tokens;
  int64_t num_seqs;
  int64_t num_heads;
  int64_t head_dim;
  int64_t window_block;   // tokens per page of window_kv
  int64_t window_stride;  // bytes from one page of window_kv to the next
  int64_t max_window_blocks;
  int64_t window;      // tokens, the query's own among them
  int64_t rope_dim;    // of a packed row
  int64_t turned_dim;  // 0 without positions
  float softmax_scale;
  bool packed;  // rows of window_kv are fp8_kv; T is bf16
  bool official;
  Dtype dtype;         // T
  int64_t head_group;  // heads that a CPU thread takes at a time; plan/cpu_tiles.h
};

}  // namespace v4npu
