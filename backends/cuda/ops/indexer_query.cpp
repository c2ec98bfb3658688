#include "v4npu/ops/indexer_query.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

Tensor launch_indexer_query(const Tensor& q, const Tensor& positions, const Tensor& freqs, bool official) {
  check_indexer_query(q, positions, freqs, official);
  if (!runs(q) || q.size(2) > kMaxIndexHead || q.size(2) % 2 != 0)
    return call_reference<Tensor>("indexer_query", q, positions, freqs, official);

  const IndexerQueryCall call(q, positions, freqs, official);
  const IndexerQueryParams& p = call.p;
  const Grid grid{p.num_tokens, ceil_div(p.num_heads, kRowWarps)};
  run("indexer_query", kernel_name("indexer_query", p.dtype), p, grid, kRowThreads, q);
  return call.out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("indexer_query", TORCH_BOX(&v4npu::cuda::launch_indexer_query)); }
