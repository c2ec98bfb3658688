#include "v4npu/ops/indexer_scores.h"

#include "../indexer.h"

namespace v4npu::ascend {

Tensor launch_indexer_scores(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
                             const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, bool official) {
  check_indexer_scores(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  if (!IndexerCall::takes(q, weights, keys)) {
    return call_reference<Tensor>("indexer_scores", q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio,
                                  official);
  }
  const IndexerCall call(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  return call.scores(0, call.num_tokens, true);
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("indexer_scores", TORCH_BOX(&v4npu::ascend::launch_indexer_scores));
}
