#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_indexer_query(const Tensor& q, const Tensor& positions, const Tensor& freqs, bool official) {
  Check check("indexer_query");
  Axis num_tokens("num_tokens"), num_heads("index_n_heads"), head_dim("index_head_dim");
  check.tensor("q", q, kFloating, num_tokens, num_heads, head_dim);
  check.tensor("positions", positions, kInt64, num_tokens);
  check.rope("q", q, freqs);
  check.require(!official || is_power_of_two(*head_dim), "q",
                "[num_tokens, index_n_heads, index_head_dim] with a power of two for the Hadamard transform", q);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("indexer_query", TORCH_BOX(&v4npu::check_indexer_query));
}
