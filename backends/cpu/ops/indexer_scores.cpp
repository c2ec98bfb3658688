#include "v4npu/ops/indexer_scores.h"

#include "../paged/launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(indexer_scores, IndexerScoresParams)

Tensor launch_indexer_scores(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
                             const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, bool official) {
  check_indexer_scores(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  if (!IndexerCall<IndexerScoresParams>::takes(q, weights, keys)) {
    return call_reference<Tensor>("indexer_scores", q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio,
                                  official);
  }
  IndexerCall<IndexerScoresParams> call(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  Tensor out = uninitialised(q, {call.p.num_tokens, call.p.max_blocks * call.p.block_size}, ScalarType::Float);
  call.p.scores = static_cast<float*>(out.mutable_data_ptr());
  run_kernel(call.p);
  return out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("indexer_scores", TORCH_BOX(&v4npu::cpu::launch_indexer_scores)); }
