#include "v4npu/ops/indexer_topk.h"

#include "../indexer_launch.h"

namespace v4npu::cuda {

Tensor launch_indexer_topk(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
                           const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, int64_t topk,
                           bool official) {
  check_indexer_topk(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, topk, official);
  using Call = IndexerCall<IndexerTopkParams>;
  if (!Call::takes(q, weights, keys) || topk > kMaxIndexTopk || start_pos.size(0) == 0) {
    return call_reference<Tensor>("indexer_topk", q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, topk,
                                  official);
  }
  Call call(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  Tensor out = uninitialised(call.q, {call.p.num_tokens, topk}, ScalarType::Int);
  call.p.topk = topk;
  call.p.topk_indices = writable<int32_t>(out);
  const GpuIndexPlan plan = plan_gpu_index(call.p.num_tokens, call.p.num_seqs, call.p.head_dim, caps_of(q));
  if (call.tiled(plan) && call.width() > 0) {
    IndexerCall<IndexerScoresParams> scorer(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
    run_topk_tiles(scorer, call.p, plan);
    return out;
  }
  const GpuTopkPlan split = plan_gpu_topk(call.p.num_tokens, call.width(), caps_of(q));
  const bool clusters = split.clusters && call.p.dtype == Dtype::kBfloat16;
  const int64_t lists = clusters ? split.parts / kClusterBlocks : split.parts;
  TopkSearch search{call.p, nullptr, lists, 0};
  OptTensor best;
  if (lists > 1) {
    best = bytes(call.q, call.p.num_tokens * lists * topk * 8);
    search.best = writable<uint64_t>(*best);
  }
  const Grid grid{call.p.num_tokens, split.parts};
  const int64_t stage = call.stage_bytes();
  search.stages = call.stages(grid.x * grid.y);
  run(clusters ? "indexer_topk_sm90" : "indexer_topk", call.kernel("indexer_topk") + (clusters ? "_cluster" : ""),
      search, grid, kRowThreads, call.q, search.stages * stage);
  if (best) run("indexer_topk", "indexer_topk_merge", search, {call.p.num_tokens}, kRowThreads, call.q);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("indexer_topk", TORCH_BOX(&v4npu::cuda::launch_indexer_topk)); }
