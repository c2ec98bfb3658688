#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_linear(const Tensor& x, const Tensor& weight, ScalarType out_dtype) {
  Check check("linear");
  Axis num_tokens("num_tokens"), k("k"), num_rows("num_rows");
  check.tensor("x", x, kFloating, num_tokens, k);
  check.tensor("weight", weight, kFloating, num_rows, k);
  check.dtype("out_dtype", out_dtype, kFloating);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("linear", TORCH_BOX(&v4npu::check_linear));
}
