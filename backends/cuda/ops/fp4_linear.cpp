#include "../gemm_launch.h"

namespace v4npu::cuda {

Tensor launch_fp4_linear(const Tensor& x, const OptTensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                         ScalarType out_dtype) {
  check_fp4_linear(x, x_scale, weight, weight_scale, out_dtype);
  if (!native(out_dtype) || (!x_scale && !native(x)) || !caps_of(x).available)
    return call_reference<Tensor>("fp4_linear", x, x_scale, weight, weight_scale, out_dtype);
  return launch_quantised("fp4_linear", x, x_scale, weight, weight_scale, out_dtype);
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("fp4_linear", TORCH_BOX(&v4npu::cuda::launch_fp4_linear)); }
