// indexer_scores: how much each query wants each compressed entry.
//   score[t,s] = sum_h weights[t,h] * relu(<q[t,h], key[s]>),   visible s < (position(t) + 1) / ratio, else -inf
// Entries past the ones that exist lie behind the visible ones, so a key that was never written is never read into a
// visible score. An entry is visible to the very token that completes it.
// Steps:
//   1 dot over the head   2 relu, times weights   3 sum over heads   4 widen to fp32   5 mask
// A packed key is widened to bf16 values: e2m1 * scale is exact there, e4m3 * scale is rounded once, which changes
// nothing where the scale is a power of two, as compressor writes them.
// official: 1, the product of 2, and 3 round to the dtype of q each, with fp32 inside the sums; otherwise all in fp32.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct IndexerScoresParams {
  const void* q;                // T     [num_tokens, index_n_heads, index_head_dim]
  const void* weights;          // T     [num_tokens, index_n_heads]
  const void* keys;             // T     [num_blocks, block_size, index_head_dim] or packed uint8 (row_format.h)
  const int32_t* block_table;   // int32 [num_seqs, max_blocks]     entry s of b: block_table[b, s / block_size]
  const int32_t* cu_seqlens_q;  // int32 [num_seqs+1]               token offsets in this call
  const int32_t* start_pos;     // int32 [num_seqs]                 tokens seen before this call
  float* scores;                // fp32  [num_tokens, max_blocks*block_size]
  int64_t num_tokens;
  int64_t num_seqs;
  int64_t num_heads;
  int64_t head_dim;
  int64_t block_size;    // entries per page
  int64_t block_stride;  // bytes from one page to the next
  int64_t max_blocks;
  int64_t ratio;  // tokens per entry
  bool official;
  Dtype dtype;           // T
  KeyFormat key_format;  // packed: T is bf16
  int64_t query_tile;    // queries that a CPU thread takes at a time; plan/cpu_tiles.h
};

}  // namespace v4npu
