#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_fp4_linear(const Tensor& x, const OptTensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                      ScalarType out_dtype) {
  Check check("fp4_linear");
  Axis num_tokens("num_tokens"), k("k");
  check.activation(x, x_scale, num_tokens, k);
  check.require(*k % 32 == 0, "x", "[num_tokens, k] with k a multiple of 32", x);
  Axis num_rows("num_rows"), bytes("k/2", *k / 2), groups("k/32", *k / 32);
  check.tensor("weight", weight, kInt8, num_rows, bytes);
  check.tensor("weight_scale", weight_scale, kE8m0, num_rows, groups);
  check.dtype("out_dtype", out_dtype, kFloating);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("fp4_linear", TORCH_BOX(&v4npu::check_fp4_linear));
}
