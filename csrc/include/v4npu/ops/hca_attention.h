// hca_attention: each query attends to its sliding window plus every compressed entry it can see.
//   out[t,h] = sum_j softmax_j(scale * <q[t,h], kv[j]>, sink[h]) kv[j],   j in window(t), then s < (t+1) / ratio
// The window comes first, oldest first, then the entries in ascending order. An entry is visible to the very token
// that completes it.
// Steps:
//   1 load q   2 gather kv   3 scores = scale * fp32 dot   4 online softmax   5 accumulate p * kv in fp32
//   6 sink, normalise   7 one rounding, to the dtype of q
// official: the list is walked in blocks of 64, its window part taking `window` places with the absent ones last; p =
// exp(score - running maximum) is rounded to bf16 (when q is bf16) for step 5, while the denominator sums it
// unrounded; both are rescaled when the maximum grows. The sink joins the denominator only, at the end: exp(sink -
// maximum). It has no value row and no part in the maximum.
#pragma once

#include <cstdint>

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct HcaAttentionParams {
  const void* q;                // T     [num_tokens, num_heads, head_dim]
  const void* window_kv;        // T     [num_seqs, ring, head_dim]           position p is row p % ring
  const void* compressed_kv;    // T     [num_blocks, block_size, head_dim]
  const int32_t* block_table;   // int32 [num_seqs, max_blocks]               entry s of b: block_table[b, s/block_size]
  const int32_t* cu_seqlens_q;  // int32 [num_seqs+1]                         token offsets in this call
  const int32_t* start_pos;     // int32 [num_seqs]                           tokens seen before this call
  const float* attn_sink;       // fp32  [num_heads]                          may be null = no sink
  void* out;                    // T     [num_tokens, num_heads, head_dim]
  int64_t num_tokens;
  int64_t num_seqs;
  int64_t num_heads;
  int64_t head_dim;
  int64_t ring;        // rows: at least window + tokens of the call - 1, or all positions
  int64_t window;      // tokens, the query's own among them
  int64_t block_size;  // entries
  int64_t max_blocks;
  int64_t ratio;  // tokens per entry
  float softmax_scale;
  bool official;
};

}  // namespace v4npu
