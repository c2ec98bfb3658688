// Shapes that a kernel and its launcher must agree on. Plain C++: both compilers read it.
#pragma once

#include <cstdint>

#include "v4npu/arithmetic.h"
#include "v4npu/ops/indexer_scores.h"
#include "v4npu/ops/indexer_topk.h"

namespace v4npu::cuda {

constexpr int kWarp = 32;
constexpr int kRowThreads = 256;  // of every kernel over rows
constexpr int kRowWarps = kRowThreads / kWarp;
constexpr int64_t kChunk = 8;       // consecutive elements of a row that one thread takes
constexpr int64_t kWarpRow = 1024;  // rows up to here are a warp's, longer ones a block's

// Products with rows of weights (products.cuh).
constexpr int64_t kColumns = 1024;  // of a partial sum
constexpr int64_t kTokenTile = 8;   // of a block
constexpr int64_t kMaxPieces = 64;  // partial sums of a dot: rows of up to 65,536 columns
constexpr int64_t kMaxExperts = 1024;
constexpr int64_t kMaxStreams = 16;
constexpr int64_t kMaxIndexHead = 256;
constexpr int64_t kMaxHadamard = 1024;

struct Products {
  const void* x;       // [num_tokens, k]
  const void* weight;  // [num_rows, k]
  void* out;           // fp32 [num_tokens, num_rows], or bf16
  int64_t num_tokens;
  int64_t num_rows;
  int64_t k;
  int64_t rows_per_block;  // a choice that changes no bit
  bool out_bfloat16;
};

// Products with many rows of weights, on tensor cores (gemm.cuh). A sum is made of slices of 128 columns.
constexpr int kSlice = 128;
constexpr int kGemmThreads = 256;
constexpr int kGemmWarps = kGemmThreads / 32;
constexpr int64_t kWideTokens = 32;  // of a block for many tokens, which has 256 rows; else 16 of both (plan/gpu.h)

// What a block has of its operands in shared memory, in bytes (operands.cuh). Few tokens: 16 of them.
constexpr int kStep = 64;                   // columns
constexpr int64_t kLeastShared = 99 << 10;  // a block may have on any device
struct GemmSpace {
  int64_t weights, stage;  // of a step of the operands
  int64_t widened, fixed;  // tokens made bf16; what else the kernels have
  bool staged;             // float32 is not: two stages must fit everywhere

  constexpr GemmSpace(bool wide, int64_t tokens, int64_t sets, int64_t x_bits, int64_t w_bits)
      : weights(kGemmWarps * (wide ? 2 : sets) * 16 * (kStep * w_bits / 8 + (w_bits == 4 ? 4 : 0))),
        stage((wide ? 1 : kGemmWarps) * tokens * kStep * x_bits / 8 + weights),
        widened(wide && x_bits == 8 ? 2 * tokens * kStep * 2 : 0),
        fixed(wide ? kGemmWarps * tokens * 4 + tokens * 4 : sets * kGemmWarps * 16 * 17 * 4 + 128),
        staged(x_bits < 32 && w_bits < 32 && widened + fixed + 2 * stage <= kLeastShared) {}
};

struct Gemm {
  const void* x;                // [num_tokens, k], rows x_stride elements apart
  const uint8_t* x_scale;       // ue8m0 [num_tokens, ceil(k/128)] of e4m3, else null
  const void* weight;           // [num_rows, k]; group z starts group_rows rows further
  const uint8_t* weight_scale;  // ue8m0: per 128x128 of e4m3, per 32 columns of e2m1, else null
  void* out;                    // [num_tokens, num_rows], rows out_stride elements apart
  int64_t num_tokens, num_rows, k;
  int64_t x_stride, out_stride;
  int64_t group_x, group_rows, group_out;  // elements, rows, elements from one group (block y) to the next
  bool out_float32;
  int stages;
};

// The routed experts (moe_experts_kernel.cu). An assignment is a token's choice: t * topk + slot.
struct Routing {
  const int32_t* topk_indices;  // int32 [num_tokens, topk]; out of range: expert 0, and the token becomes NaN
  int32_t* counts;              // int32 [num_experts]      assignments of each
  int32_t* starts;              // int32 [num_experts]      of its part of list
  int32_t* tile_starts;         // int32 [num_experts]      of its part of tiles
  int32_t* tiles;               // int32 [max_tiles]        expert of each tile of tokens, -1 = none
  int32_t* list;                // int32 [num_assignments]  by expert, ascending
  int64_t num_assignments, num_experts, max_tiles, tile_tokens;
};

struct ExpertGemm {
  Routing routing;
  const void* x;           // [num_tokens, k] of the first product, [num_assignments, k] by list of the second
  const uint8_t* x_scale;  // ue8m0 [same, ceil(k/128)] of e4m3, else null
  const void* weight[2];   // [num_experts, num_rows, k]: w1 and w3, or w2; rows_apart from one expert to the next
  const uint8_t* weight_scale[2];  // ue8m0, as in moe_experts.h
  const float* topk_weights;       // fp32 [num_assignments]
  void* out;           // bf16 [num_assignments, num_rows]: by list of the first, by assignment of the second;
                       // e4m3 of the first where its layout quantises
  uint8_t* out_scale;  // ue8m0 [num_assignments, ceil(num_rows/128)], then
  int64_t num_rows, rows_apart, k, topk;
  float limit;
  int stages;
};

struct ExpertSum {
  const int32_t* topk_indices;  // int32 [num_tokens, topk]
  const void* y;                // bf16  [num_tokens, topk, hidden_size]
  const void* shared;           // as x [num_tokens, hidden_size]  or null
  void* out;                    // fp32  [num_tokens, hidden_size]; as x with shared
  int64_t hidden_size, topk, num_experts;
};
constexpr int64_t kMaxTopk = 64;
constexpr int kClusterBlocks = 8;  // of 16 rows each, a slice together; or of a part of a query's keys each

// The search for the best index keys (indexer_topk_kernel.cu): the keys of a token are split into parts, one to a
// block, and the best of the parts are merged. The order of candidates is total, so that no split shows.
constexpr int kTopkList = 4096;  // candidates in shared memory
constexpr int64_t kMaxIndexTopk = kTopkList / 2;
// Tokens of long prompts: scores of some of them against some of the keys, by blocks of 32 tokens that share 64 keys,
// then the best of those (indexer_scores_tile_..., indexer_topk_select).
struct ScoreTile {
  IndexerScoresParams call;  // scores: fp32 [end_token - first_token, end_key - first_key]
  int64_t first_token, end_token, first_key, end_key;
};
struct TopkSelect {
  IndexerTopkParams call;
  const float* scores;  // of these keys, a row for each token from first_token on
  uint64_t* best;       // [tokens, parts, topk]   as in TopkSearch; unused where parts is 1
  int64_t first_token, first_key, end_key, part, parts;
};
struct TopkSearch {
  IndexerTopkParams call;
  uint64_t* best;  // [num_tokens, parts, topk]   of each part, 0 = none; unused where parts is 1
  int64_t parts;
  int64_t first_token;  // of those that are merged
  int stages = 0;       // of packed keys, 1 to 4, in shared memory (indexer.cuh)
};
constexpr int64_t kTopkBytes = kTopkList * 8 + 256;  // of shared memory besides
// Of 32 packed keys, in bytes: values up to a whole step, and scales, four to a word.
constexpr int64_t key_stage_bytes(int64_t head_dim, int64_t bits) {
  return kWarp * (ceil_div(head_dim, kStep) * kStep * bits / 8 + (bits == 4 ? ceil_div(head_dim, 128) * 4 : 4));
}

// Attention over pages (attention.cuh): 16 heads of a token, in blocks of 64 places of its list.
struct Attention {
  const void* q;                // bf16  [num_tokens, num_heads, head_dim]
  const void* window_kv;        // bf16  [num_blocks, window_block, head_dim] or fp8_kv rows
  const int32_t* window_table;  // int32 [num_seqs, max_window_blocks]
  const void* compressed_kv;    // as window_kv, null: no entries
  const int32_t* block_table;   // int32 [num_seqs, max_blocks]
  const int32_t* topk_indices;  // int32 [num_tokens, topk], null: all complete entries
  const int32_t* cu_seqlens_q;  // int32 [num_seqs+1]
  const int32_t* start_pos;     // int32 [num_seqs]
  const float* attn_sink;       // fp32  [num_heads], may be null
  const int64_t* positions;     // int64 [num_tokens], null: out is not turned
  const float* freqs;           // fp32  [turned_dim/2]
  void* out;                    // bf16  [num_tokens, num_heads, head_dim]
  int64_t num_tokens, num_seqs, num_heads, head_dim, rope_dim, turned_dim;
  int64_t window_block, window_stride, max_window_blocks, window;
  int64_t block_size, block_stride, max_blocks, topk, ratio;
  float scale;
  int64_t parts;         // blocks that share the segments of a token's list
  int64_t max_segments;  // that a list of the call can have
  float* states;         // [num_tokens, head tiles, max_segments, state_values, kRowThreads]; unused where parts is 1
  int staged;            // of the kWarpPlaces rows that a warp widens: how many come to shared memory ahead
};
constexpr int kPlaces = 64;
constexpr int kWarpPlaces = kPlaces / kRowWarps;
constexpr int kHeadTile = 16;
constexpr int64_t kMaxHeadDim = 512;
constexpr int kPadding = 8;  // bf16 behind a row in shared memory, so that rows start in different banks

// Not round_up, here and below: nvcc inlines it otherwise, and attention becomes other code.
constexpr int64_t padded_dim(int64_t head_dim) { return ceil_div(head_dim, 128) * 128; }

// A list is walked in segments, whose states are then folded in order. Their length follows from the list's alone: 128
// places, or as many as make 32 segments.
constexpr int64_t kSegment = 128, kMaxSegments = 32;
constexpr int64_t segment_places(int64_t places) {
  return places <= kSegment * kMaxSegments ? kSegment : ceil_div(ceil_div(places, kMaxSegments), kPlaces) * kPlaces;
}
// The most that a list of up to `places` has.
constexpr int64_t max_segments(int64_t places) {
  return places < kSegment * kMaxSegments ? ceil_div(places, kSegment) : kMaxSegments;
}
// Of a thread: two maxima, two sums, 8 accumulators for each 128 dims.
constexpr int64_t state_values(int64_t head_dim) { return 4 + 8 * padded_dim(head_dim) / 128; }

// Of a row as it lies, in shared memory; up to 8 scales behind a packed one.
constexpr int64_t staged_row_bytes(bool packed, int64_t head_dim, int64_t rope_dim) {
  return packed ? head_dim + rope_dim + 16 : 2 * head_dim;
}
// In bytes; the tile of rows comes first, `staged` rows of each warp behind all.
struct AttentionSpace {
  int64_t probabilities, rows, maxima, sums, turns, size;
  constexpr AttentionSpace(int64_t head_dim, int64_t turned_dim)
      : probabilities(kPlaces * (padded_dim(head_dim) + kPadding) * 2),
        rows(probabilities + 2 * kHeadTile * (kPlaces + kPadding) * 2),
        maxima(rows + kRowThreads * 16),
        sums(maxima + kRowWarps * kHeadTile * 4),
        turns(sums + kRowWarps * kHeadTile * 4),
        size(turns + ceil_div(turned_dim, 4) * 16) {}
};

}  // namespace v4npu::cuda
