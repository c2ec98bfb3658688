// compressor: pools every `ratio` tokens of a sequence into one entry.
//   entry[i] = rope(norm(sum_j softmax_j(score[j]) * kv[j]), position i*ratio),   per channel, j in window(i)
// coff = 2 with overlap, else 1. Without overlap window i holds tokens i*ratio .. i*ratio+ratio-1. With overlap it
// holds 2*ratio rows: the first half of the columns of window i-1, then the second half of window i; before the
// first window lie rows of kv 0 and score -inf. An entry exists once its last token has been seen; the tail of a
// sequence waits in state, so any chunking gives the same entries.
// Steps (1 to 3 in the dtype of kv, fp32 or fp64):
//   1 score[t] += ape[position mod ratio]   2 softmax over the rows of the window, per channel   3 weighted sum
//   4 round to out_dtype   5 rms_norm, rounded   6 rope at the window's first position, rounded
//   7 quant: "fp8" rounds the first head_dim - rope_dim values, one scale per 64 (act_quant.h); "hadamard_fp4"
//     transforms (hadamard.h, rounded) and rounds all values, one scale per 32 (fp4_act_quant.h); "hadamard_fp8"
//     likewise, one scale per row (act_quant.h); results in out_dtype
//   8 state: the kv and score row of the token at position p is row p % ring of the sequence's state; whatever stood in
//     the rows of positions not seen yet is not read; sequences with tokens have states of their own
//   9 the row of slot_mapping[e] in cache = entry e where the slot is not negative; slot s is row s % block_size of
//     page s / block_size; slots of a call are distinct. Packed: the codes and scales of step 7
//     (fp8_kv, fp4_key and fp8_key, in this order)
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct CompressorParams {
  const void* kv;               // fp32  [num_tokens, coff*head_dim]                  or fp64, as score, ape and state
  const void* score;            // fp32  [num_tokens, coff*head_dim]
  const void* ape;              // fp32  [ratio, coff*head_dim]
  const void* norm_weight;      // any floating point [head_dim]
  const float* freqs;           // fp32  [rope_dim/2]
  const int32_t* cu_seqlens_q;  // int32 [num_seqs+1]                                 token offsets in this call
  const int32_t* start_pos;     // int32 [num_seqs]                                   tokens seen before this call
  void* state;                  // fp32  [num_states, 2, ring, coff*head_dim]         0 = kv, 1 = score with ape; null:
                                //                                                    every start_pos is 0
  const int32_t* state_slots;   // int32 [num_seqs]                                   state of each sequence
  void* entries;                // out_dtype [num_entries, head_dim]                  sequence after sequence
  void* cache;                  // out_dtype [num_blocks, block_size, head_dim] or packed uint8; may be null
  const int64_t* slot_mapping;  // int64 [num_entries]                                -1 = not stored
  int64_t num_tokens;
  int64_t num_seqs;
  int64_t num_entries;  // sum over sequences of (start + length) / ratio - start / ratio
  int64_t head_dim;
  int64_t rope_dim;
  int64_t ratio;  // tokens
  bool overlap;
  bool packed;           // out_dtype is bf16
  int64_t ring;          // rows of a state: at least coff*ratio
  int64_t state_stride;  // elements from one state to the next
  int64_t block_size;    // rows per page of cache
  int64_t block_stride;  // bytes from one page to the next
  float eps;
  enum class Quant : int32_t { kNone, kFp8, kHadamardFp4, kHadamardFp8 } quant;
  Dtype dtype;         // T, out_dtype
  Dtype weight_dtype;  // of norm_weight
};

}  // namespace v4npu
