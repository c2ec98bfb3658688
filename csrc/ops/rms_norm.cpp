#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_rms_norm(const Tensor& x, const OptTensor& weight, double eps) {
  Check check("rms_norm");
  Axis n("n");
  check.trailing("x", x, kFloating, n);
  check.tensor("weight", weight, kFloating, n);
  check.require(eps >= 0, "eps", "at least 0", eps);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("rms_norm", TORCH_BOX(&v4npu::check_rms_norm));
}
