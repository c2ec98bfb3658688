#include "v4npu/ops/indexer_query.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(indexer_query, IndexerQueryParams)

Tensor launch_indexer_query(const Tensor& q, const Tensor& positions, const Tensor& freqs, bool official) {
  check_indexer_query(q, positions, freqs, official);
  constexpr int64_t kMaxHead = 1024;  // indexer_query_kernel.cpp
  if (!native(q) || q.size(2) > kMaxHead) return call_reference<Tensor>("indexer_query", q, positions, freqs, official);

  const IndexerQueryCall call(q, positions, freqs, official);
  run_kernel(call.p);
  return call.out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("indexer_query", TORCH_BOX(&v4npu::cpu::launch_indexer_query)); }
