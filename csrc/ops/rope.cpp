#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_rope(const Tensor& x, const Tensor& positions, const Tensor& freqs, bool /*inverse*/) {
  Check check("rope");
  Axis num_tokens("num_tokens");
  check.tensor("positions", positions, kInt64, num_tokens);
  check.rope("x", x, freqs);
  check.require(x.dim() >= 2 && x.size(0) == *num_tokens, "x", "[num_tokens, ..., head_dim] with a position per token",
                [&] { return describe(x) + " and " + std::to_string(*num_tokens) + " positions"; });
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) { m.impl("rope", TORCH_BOX(&v4npu::check_rope)); }
