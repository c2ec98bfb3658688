#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_act_quant(const Tensor& x, int64_t block_size) {
  Check check("act_quant");
  Axis n("n");
  check.trailing("x", x, kFloating, n);
  check.positive("block_size", block_size);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("act_quant", TORCH_BOX(&v4npu::check_act_quant));
}
