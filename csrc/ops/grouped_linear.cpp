#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_grouped_linear(const Tensor& x, const Tensor& weight, const OptTensor& weight_scale) {
  Check check("grouped_linear");
  Axis num_tokens("num_tokens"), groups("groups"), k("k"), rows("groups*n");
  check.tensor("x", x, kFloating, num_tokens, groups, k);
  check_weight(check, {"weight", "weight_scale", weight, weight_scale}, nullptr, rows, k, /*fp4=*/false);
  check.require(*groups > 0 && *rows % *groups == 0, "weight", "[groups*n, k] with whole groups",
                [&] { return describe(weight) + " for " + std::to_string(*groups) + " groups"; });
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("grouped_linear", TORCH_BOX(&v4npu::check_grouped_linear));
}
