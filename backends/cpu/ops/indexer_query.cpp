#include "v4npu/ops/indexer_query.h"

#include "../launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(indexer_query, IndexerQueryParams)

Tensor launch_indexer_query(const Tensor& q_, const Tensor& positions_, const Tensor& freqs_, bool official) {
  check_indexer_query(q_, positions_, freqs_, official);
  constexpr int64_t kMaxHead = 1024;  // indexer_query_kernel.cpp
  if (!native(q_) || q_.size(2) > kMaxHead)
    return call_reference<Tensor>("indexer_query", q_, positions_, freqs_, official);

  const Tensor q = dense(q_), positions = dense(positions_), freqs = dense(freqs_);
  Tensor out = torch::stable::empty_like(q);
  IndexerQueryParams p{};
  p.q = pointer<void>(q);
  p.positions = pointer<int64_t>(positions);
  p.freqs = pointer<float>(freqs);
  p.out = out.mutable_data_ptr();
  p.num_tokens = q.size(0);
  p.num_heads = q.size(1);
  p.head_dim = q.size(2);
  p.rope_dim = 2 * freqs.size(0);
  p.official = official;
  p.dtype = dtype_of(q);
  run_kernel(p);
  return out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("indexer_query", TORCH_BOX(&v4npu::cpu::launch_indexer_query)); }
