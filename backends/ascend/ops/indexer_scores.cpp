#include "v4npu/ops/indexer_scores.h"

#include "../launch.h"
#include "ops/check.h"

namespace v4npu::ascend {

Tensor launch_indexer_scores(const Tensor& q_, const Tensor& weights_, const Tensor& keys, const Tensor& block_table_,
                             const Tensor& cu_seqlens_q_, const Tensor& start_pos_, int64_t ratio, bool official) {
  check_indexer_scores(q_, weights_, keys, block_table_, cu_seqlens_q_, start_pos_, ratio, official);
  const int64_t num_tokens = q_.size(0), num_heads = q_.size(1), head_dim = q_.size(2);
  // indexer_scores_kernel.asc: limits
  const bool fits = num_heads > 0 && num_heads <= 64 && head_dim > 0 && head_dim <= 128;
  const bool known =
      (suffix(q_) == "fp32" || suffix(q_) == "bf16") && suffix(q_) == suffix(weights_) && suffix(q_) == suffix(keys);
  if (!ready() || !fits || !known) {
    return call_reference<Tensor>("indexer_scores", q_, weights_, keys, block_table_, cu_seqlens_q_, start_pos_, ratio,
                                  official);
  }
  constexpr int64_t kPlanWords = 1024, kTile = 64, kSlots = 2;  // query_plan.h, indexer_scores_kernel.asc
  const Tensor q = dense(q_), weights = dense(weights_), block_table = dense(block_table_);
  const Tensor cu_seqlens_q = dense(cu_seqlens_q_), start_pos = dense(start_pos_);
  const int64_t num_seqs = start_pos.size(0), max_blocks = block_table.size(1), width = max_blocks * keys.size(1);
  const int64_t blocks = blocks_of(q, Core::kCube, num_tokens * ceil_div(width, kTile));
  Tensor scores = torch::stable::new_empty(q, {num_tokens, width}, ScalarType::Float);
  Tensor plan = torch::stable::new_empty(q, {kPlanWords}, ScalarType::Int);
  Tensor workspace = torch::stable::new_empty(q, {blocks, kSlots, kTile, kTile}, ScalarType::Float);
  launch("indexer_scores_plan", blocks > 0, q, pointer(cu_seqlens_q), pointer(start_pos), pointer(plan), num_tokens,
         num_seqs, ratio, width, blocks);
  launch_on(Core::kCube, "indexer_scores_" + suffix(q), blocks, q, pointer(q), pointer(weights), pointer(keys),
            pointer(block_table), pointer(cu_seqlens_q), pointer(start_pos), pointer(plan), pointer(workspace),
            pointer(scores), num_tokens, num_heads, head_dim, keys.size(0), keys.size(1), keys.stride(0), max_blocks,
            num_seqs, ratio, static_cast<int32_t>(official));
  return scores;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("indexer_scores", TORCH_BOX(&v4npu::ascend::launch_indexer_scores));
}
