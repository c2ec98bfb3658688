#include "v4npu/ops/indexer_query.h"

#include <cmath>

#include "../steps.h"

namespace v4npu::ascend {

Tensor launch_indexer_query(const Tensor& q, const Tensor& positions, const Tensor& freqs, bool official) {
  check_indexer_query(q, positions, freqs, official);
  const int64_t num_rows = q.size(0) * q.size(1), n = q.size(2), rope_dim = 2 * freqs.size(0);
  // rope_kernel.asc and indexer_query_kernel.asc: limits
  const bool fits = rope_dim > 0 && rope_dim <= 2048 && n - rope_dim <= 8192 && (!official || (n >= 32 && n <= 2048));
  if (!ready() || suffix(q).empty() || !fits)
    return call_reference<Tensor>("indexer_query", q, positions, freqs, official);

  const Tensor rotated = launch_rope(q, positions, freqs, false);
  if (!official) return rotated;
  Tensor out = uninitialised_like(rotated);
  launch("indexer_query_" + suffix(out), num_rows, out, pointer(rotated), pointer(out), num_rows, n,
         static_cast<float>(1.0 / std::sqrt(static_cast<double>(n))));
  return out;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("indexer_query", TORCH_BOX(&v4npu::ascend::launch_indexer_query));
}
