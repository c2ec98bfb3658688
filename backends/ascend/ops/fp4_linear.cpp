#include "v4npu/ops/fp4_linear.h"

#include "../products.h"

namespace v4npu::ascend {

Tensor launch_fp4_linear(const Tensor& x, const OptTensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                         ScalarType out_dtype) {
  check_fp4_linear(x, x_scale, weight, weight_scale, out_dtype);
  return launch_quantised("fp4_linear", x, x_scale, weight, weight_scale, out_dtype);
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("fp4_linear", TORCH_BOX(&v4npu::ascend::launch_fp4_linear)); }
