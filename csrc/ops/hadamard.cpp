#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_hadamard(const Tensor& x) {
  Check check("hadamard");
  Axis n("n");
  check.trailing("x", x, kFloating, n);
  check.require(is_power_of_two(*n), "x", "[..., n] with n a power of two", x);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("hadamard", TORCH_BOX(&v4npu::check_hadamard));
}
