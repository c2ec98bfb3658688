// What the launchers of indexer_scores and indexer_topk share.
#pragma once

#include "launch.h"

namespace v4npu::ascend {

// The tensors of a call, contiguous where they must be.
class IndexerCall {
 public:
  // indexer_scores_kernel.asc: limits.
  static bool takes(const Tensor& q, const Tensor& weights, const Tensor& keys);

  IndexerCall(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
              const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, bool official);

  // fp32 [count, width] of the tokens from `first` on; what no query sees is set only if asked for.
  Tensor scores(int64_t first, int64_t count, bool hides) const;

  const Tensor q, weights, keys, block_table, cu_seqlens_q, start_pos;
  const int64_t num_tokens, num_seqs, width, ratio;

 private:
  bool official_;
};

}  // namespace v4npu::ascend
