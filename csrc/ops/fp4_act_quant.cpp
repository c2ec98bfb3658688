#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_fp4_act_quant(const Tensor& x, int64_t block_size) {
  Check check("fp4_act_quant");
  Axis n("n");
  check.trailing("x", x, kFloating, n);
  check.require(*n % 2 == 0, "x", "[..., n] with n even, two values to a byte", x);
  check.positive("block_size", block_size);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("fp4_act_quant", TORCH_BOX(&v4npu::check_fp4_act_quant));
}
