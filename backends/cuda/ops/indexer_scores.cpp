#include "v4npu/ops/indexer_scores.h"

#include "../indexer_launch.h"

namespace v4npu::cuda {

Tensor launch_indexer_scores(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
                             const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, bool official) {
  check_indexer_scores(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  using Call = IndexerCall<IndexerScoresParams>;
  if (!Call::takes(q, weights, keys)) {
    return call_reference<Tensor>("indexer_scores", q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio,
                                  official);
  }
  Call call(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  Tensor out = uninitialised(call.q, {call.p.num_tokens, call.width()}, ScalarType::Float);
  call.p.scores = writable<float>(out);
  if (call.tiled(plan_gpu_index(call.p.num_tokens, call.p.num_seqs, call.p.head_dim, caps_of(q)))) {
    run_score_tile(call, 0, call.p.num_tokens, 0, call.width());
    return out;
  }
  const Grid grid{call.p.num_seqs > 0 ? call.p.num_tokens : 0, ceil_div(call.width(), kRowThreads)};
  run("indexer_scores", call.kernel("indexer_scores"), call.p, grid, kRowThreads, call.q);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("indexer_scores", TORCH_BOX(&v4npu::cuda::launch_indexer_scores)); }
