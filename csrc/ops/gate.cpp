#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_gate(const Tensor& x, const Tensor& weight, const OptTensor& bias, int64_t topk, double /*route_scale*/) {
  Check check("gate");
  Axis num_tokens("num_tokens"), d("hidden_size"), num_experts("num_experts");
  check.tensor("x", x, kFloating, num_tokens, d);
  check.tensor("weight", weight, kFloating, num_experts, d);
  check.tensor("bias", bias, kFloat32, num_experts);
  check.require(topk > 0 && topk <= *num_experts, "topk", "between 1 and num_experts", topk);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) { m.impl("gate", TORCH_BOX(&v4npu::check_gate)); }
