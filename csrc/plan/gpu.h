// Plans for CUDA devices: pure functions of sizes and device, so that they are tested on invented GPUs. A choice that
// changes the order of a sum must not read the number of tokens: results do not change with the batch.
#pragma once

#include <cstdint>
#include <string>

#include "v4npu/device_caps.h"

namespace v4npu {

constexpr const char* kCudaKernels = "kernels";  // the feature of a build that has the kernels' files

// Major times ten plus minor of caps.name, such as 90 of "sm_90"; 0 if it is no such name.
int cuda_architecture(const DeviceCaps& caps);

// Why no kernel of ours runs there; empty if they do.
std::string refuses_cuda(const DeviceCaps& caps);

// How a product on tensor cores is laid out. Either way gives the same bits (backends/cuda/device/gemm.cuh).
struct GpuGemmPlan {
  bool wide = false;  // a block has 256 rows and 32 tokens, else 16 and 16
  int64_t row_tiles = 0, token_tiles = 0;
};
GpuGemmPlan plan_gpu_gemm(int64_t num_tokens, int64_t num_rows, int64_t groups, bool may_be_wide,
                          const DeviceCaps& caps);

// How many steps of its operands a block has in shared memory, beside `other_bytes`: 4, or up to 8 where `blocks` of
// them would else have less than 43 KB of weights (or keys: what is read once) on their way to a multiprocessor, and no
// more than they leave room for, but 2. 43 KB: what 8 TB/s bring in 800 ns, of which each of 148 has its part (B200);
// an H200 needs 29. Reckoned, not run on a device.
int plan_gpu_stages(int64_t stage_bytes, int64_t weight_bytes, int64_t other_bytes, int64_t blocks,
                    const DeviceCaps& caps);
// Of a grid of so many blocks with room for two on a multiprocessor: how many it has.
int64_t plan_gpu_blocks(int64_t blocks, const DeviceCaps& caps);

// How many rows and tokens of an expert a block computes (backends/cuda/ops/moe_experts_kernel.cu); all give the same
// bits.
enum class ExpertLayout { kSplit, kNarrow, kWide };
const char* name_of(ExpertLayout layout);  // as kernels are named: "split", "narrow", "wide"

// How the routed experts are laid out: their assignments are known to the device alone, so tiles of tokens are launched
// for the worst case, and those that no expert needs end at once.
struct GpuExpertPlan {
  ExpertLayout layout = ExpertLayout::kSplit;  // always of float32
  int64_t tile_tokens = 0, max_tiles = 0;
  bool clusters = false;  // of the split layout's first product, which then quantises too (sm_90 and later)

  // Whether the first product's kernel quantises its rows, in a call that `quantises` them.
  bool fuses(bool quantises) const { return quantises && (layout != ExpertLayout::kSplit || clusters); }
};
GpuExpertPlan plan_gpu_experts(int64_t num_assignments, int64_t num_experts, int64_t width, bool float32,
                               bool quantises, const DeviceCaps& caps);

// How index keys are scored: tiled if blocks of 32 tokens would mostly belong to one sequence, and so share keys. Then
// indexer_topk holds the scores of `tokens` tokens and `keys` keys at a time: 16 MiB for 132 multiprocessors, a third
// of their second-level cache.
struct GpuIndexPlan {
  bool tiled = false;
  int64_t tokens = 0, keys = 0;
};
GpuIndexPlan plan_gpu_index(int64_t num_tokens, int64_t num_seqs, int64_t head_dim, const DeviceCaps& caps);

// Into how many parts a token's index keys are split, a block to each: as many as fill the device, but none smaller
// than 2,048 of the at most `num_keys`. So there are never more lists of parts than multiprocessors. From sm_90 on 8
// neighbours form a cluster, where rounding down to whole clusters loses at most a quarter of the blocks. No split
// shows in a result (backends/cuda/device/topk.cuh).
struct GpuTopkPlan {
  int64_t parts = 1;
  bool clusters = false;
};
GpuTopkPlan plan_gpu_topk(int64_t num_tokens, int64_t num_keys, const DeviceCaps& caps);

// Over how many blocks the segments of a token's list are spread, for each tile of 16 heads: one to a segment, as long
// as all blocks run at once. What a segment is follows from the list's length alone, so results do not change with
// this (backends/cuda/device/attention.cuh). The states of the segments take at most 36 KiB each.
int64_t plan_gpu_attention_parts(int64_t num_tokens, int64_t head_tiles, int64_t segments, const DeviceCaps& caps);

// How many of the `most` rows that each warp widens at a time are fetched into shared memory ahead, in the background:
// as many as a block has room for beside `other_bytes`; `row_bytes` are those of one row for every warp. Filling shared
// memory costs no block: a thread's sums take more than 128 registers, so a multiprocessor runs one block anyway.
// Results do not change with this (backends/cuda/device/list_rows.cuh).
int plan_gpu_staged_rows(int64_t row_bytes, int64_t other_bytes, int64_t most, const DeviceCaps& caps);

}  // namespace v4npu
