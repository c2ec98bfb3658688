#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_swiglu(const Tensor& gate, const Tensor& up, const OptTensor& weights, double limit) {
  Check check("swiglu");
  Axis num_tokens("num_tokens"), width("intermediate_size");
  check.tensor("gate", gate, kFloating, num_tokens, width);
  check.tensor("up", up, kFloating, num_tokens, width);
  check.tensor("weights", weights, kFloat32, num_tokens);
  check.clamp("limit", limit);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("swiglu", TORCH_BOX(&v4npu::check_swiglu));
}
