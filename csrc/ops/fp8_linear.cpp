#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_fp8_linear(const Tensor& x, const OptTensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                      ScalarType out_dtype) {
  Check check("fp8_linear");
  Axis num_tokens("num_tokens"), k("k");
  check.activation(x, x_scale, num_tokens, k);
  Axis num_rows("num_rows"), row_blocks("ceil(num_rows/128)"), col_blocks("ceil(k/128)");
  check.tensor("weight", weight, kE4m3, num_rows, k);
  row_blocks.bind(ceil_div(*num_rows, 128));
  col_blocks.bind(ceil_div(*k, 128));
  check.tensor("weight_scale", weight_scale, kE8m0, row_blocks, col_blocks);
  check.dtype("out_dtype", out_dtype, kFloating);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("fp8_linear", TORCH_BOX(&v4npu::check_fp8_linear));
}
