#include "v4npu/ops/indexer_query.h"

#include "../launch.h"

namespace v4npu::cuda {

Tensor launch_indexer_query(const Tensor& q_, const Tensor& positions_, const Tensor& freqs_, bool official) {
  check_indexer_query(q_, positions_, freqs_, official);
  if (!runs(q_) || q_.size(2) > kMaxIndexHead || q_.size(2) % 2 != 0)
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
  const Grid grid{p.num_tokens, ceil_of(p.num_heads, kRowWarps)};
  run("indexer_query", kernel_name("indexer_query", p.dtype), p, grid, kRowThreads, q);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("indexer_query", TORCH_BOX(&v4npu::cuda::launch_indexer_query)); }
