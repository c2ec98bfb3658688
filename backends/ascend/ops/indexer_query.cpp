#include "v4npu/ops/indexer_query.h"

#include <cmath>

#include "../launch.h"

namespace v4npu::ascend {

Tensor launch_indexer_query(const Tensor& q_, const Tensor& positions_, const Tensor& freqs_, bool official) {
  check_indexer_query(q_, positions_, freqs_, official);
  const int64_t num_tokens = q_.size(0), num_heads = q_.size(1), n = q_.size(2), rope_dim = 2 * freqs_.size(0);
  // rope_kernel.asc and indexer_query_kernel.asc: limits
  const bool fits = rope_dim > 0 && rope_dim <= 2048 && n - rope_dim <= 8192 && (!official || (n >= 32 && n <= 2048));
  if (!ready() || suffix(q_).empty() || !fits)
    return call_reference<Tensor>("indexer_query", q_, positions_, freqs_, official);

  const Tensor q = dense(q_), positions = dense(positions_), freqs = dense(freqs_);
  const Tensor rotated = uninitialised_like(q);
  launch("rope_" + suffix(q), num_heads > 0 ? num_tokens : 0, q, pointer(q), pointer(positions), pointer(freqs),
         pointer(rotated), num_tokens, num_heads, n, rope_dim, int32_t{0});
  if (!official) return rotated;
  Tensor out = uninitialised_like(q);
  launch("indexer_query_" + suffix(q), num_tokens * num_heads, q, pointer(rotated), pointer(out),
         num_tokens * num_heads, n, static_cast<float>(1.0 / std::sqrt(static_cast<double>(n))));
  return out;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("indexer_query", TORCH_BOX(&v4npu::ascend::launch_indexer_query));
}
