#include "v4npu/ops/indexer_topk.h"

#include <algorithm>

#include "../indexer.h"
#include "ops/check.h"

namespace v4npu::ascend {

Tensor launch_indexer_topk(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
                           const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, int64_t topk,
                           bool official) {
  check_indexer_topk(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, topk, official);
  constexpr int64_t kMaxIndexTopk = 2048, kRun = 32, kPairFloats = 2;  // indexer_topk_kernel.asc
  if (!IndexerCall::takes(q, weights, keys) || topk > kMaxIndexTopk) {
    return call_reference<Tensor>("indexer_topk", q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, topk,
                                  official);
  }
  const IndexerCall call(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  const int64_t kept = ceil_div(topk, kRun) * kRun;
  Tensor out = uninitialised(q, {call.num_tokens, topk}, ScalarType::Int);
  const AscendTopkPlan plan = topk_plan(q, call.num_tokens, call.width);
  for (int64_t first = 0; first < call.num_tokens; first += plan.tokens) {
    const int64_t tokens = std::min(plan.tokens, call.num_tokens - first);
    const Tensor scores = call.scores(first, tokens, false);
    OptTensor lists;
    if (plan.parts > 1) lists = uninitialised(q, {tokens, plan.parts, kept, kPairFloats}, ScalarType::Float);
    void* const indices = static_cast<int32_t*>(pointer(out)) + first * topk;
    launch("indexer_topk_select", tokens * plan.parts, q, pointer(scores), pointer(call.cu_seqlens_q),
           pointer(call.start_pos), pointer(lists), indices, tokens, call.num_seqs, ratio, call.width, first, topk,
           plan.parts);
    if (!lists) continue;
    launch("indexer_topk_merge", tokens, q, pointer(scores), pointer(lists), pointer(call.cu_seqlens_q),
           pointer(call.start_pos), indices, tokens, call.num_seqs, ratio, call.width, first, topk, plan.parts);
  }
  return out;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("indexer_topk", TORCH_BOX(&v4npu::ascend::launch_indexer_topk));
}
