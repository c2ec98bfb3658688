#include "v4npu/ops/rms_norm.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(rms_norm, RmsNormParams)

Tensor launch_rms_norm(const Tensor& x, const OptTensor& weight, double eps) {
  check_rms_norm(x, weight, eps);
  if (!native(x) || !native(weight)) return call_reference<Tensor>("rms_norm", x, weight, eps);

  const RmsNormCall call(x, weight, eps);
  run_kernel(call.p);
  return call.out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("rms_norm", TORCH_BOX(&v4npu::cpu::launch_rms_norm)); }
