// indexer_topk: the entries each query will attend to.
// Steps:
//   1 to 5 as in indexer_scores.h   6 the topk largest visible scores, best first; among equal scores the smaller index
//     A NaN counts as the largest score, and all NaN as equal
//   7 -1 where fewer than topk entries are visible or their scores are -inf
// Indices are bitwise equal in every backend for equal scores. The scores of all queries never exist at once: a kernel
// keeps the running best of a tile, or goes through a bounded number of scores at a time, so that memory does not grow
// with tokens times context.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct IndexerTopkParams {
  const void* q;                // T     [num_tokens, index_n_heads, index_head_dim]
  const void* weights;          // T     [num_tokens, index_n_heads]
  const void* keys;             // T     [num_blocks, block_size, index_head_dim] or packed uint8 (row_format.h)
  const int32_t* block_table;   // int32 [num_seqs, max_blocks]     entry s of b: block_table[b, s / block_size]
  const int32_t* cu_seqlens_q;  // int32 [num_seqs+1]               token offsets in this call
  const int32_t* start_pos;     // int32 [num_seqs]                 tokens seen before this call
  int32_t* topk_indices;        // int32 [num_tokens, topk]         entry of the sequence, -1 = unused slot
  int64_t num_tokens;
  int64_t num_seqs;
  int64_t num_heads;
  int64_t head_dim;
  int64_t block_size;    // entries per page
  int64_t block_stride;  // bytes from one page to the next
  int64_t max_blocks;
  int64_t ratio;  // tokens per entry
  int64_t topk;
  bool official;
  Dtype dtype;           // T
  KeyFormat key_format;  // packed: T is bf16
  int64_t query_tile;    // queries that a CPU thread takes at a time; plan/cpu_tiles.h
};

}  // namespace v4npu
