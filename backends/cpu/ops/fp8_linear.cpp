#include "v4npu/ops/fp8_linear.h"

#include "../gemm_launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(fp8_linear, Fp8LinearParams)

Tensor launch_fp8_linear(const Tensor& x, const OptTensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                         ScalarType out_dtype) {
  check_fp8_linear(x, x_scale, weight, weight_scale, out_dtype);
  if (!native(out_dtype) || (!x_scale && !native(x)))
    return call_reference<Tensor>("fp8_linear", x, x_scale, weight, weight_scale, out_dtype);
  Fp8LinearParams p{};
  return launch_quantised(p, x, x_scale, weight, weight_scale, out_dtype, [&] { run_kernel(p); });
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("fp8_linear", TORCH_BOX(&v4npu::cpu::launch_fp8_linear)); }
