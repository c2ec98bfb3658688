#include "v4npu/ops/indexer_topk.h"

#include "../paged/launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(indexer_topk, IndexerTopkParams)

Tensor launch_indexer_topk(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
                           const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, int64_t topk,
                           bool official) {
  check_indexer_topk(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, topk, official);
  if (!IndexerCall<IndexerTopkParams>::takes(q, weights, keys)) {
    return call_reference<Tensor>("indexer_topk", q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, topk,
                                  official);
  }
  IndexerCall<IndexerTopkParams> call(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  Tensor out = uninitialised(q, {call.p.num_tokens, topk}, ScalarType::Int);
  call.p.topk_indices = static_cast<int32_t*>(out.mutable_data_ptr());
  call.p.topk = topk;
  run_kernel(call.p);
  return out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("indexer_topk", TORCH_BOX(&v4npu::cpu::launch_indexer_topk)); }
