#include "v4npu/ops/swiglu.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(swiglu, SwigluParams)

Tensor launch_swiglu(const Tensor& gate, const Tensor& up, const OptTensor& weights, double limit) {
  check_swiglu(gate, up, weights, limit);
  if (!native(gate) || up.scalar_type() != gate.scalar_type() || !is_float32(weights))
    return call_reference<Tensor>("swiglu", gate, up, weights, limit);

  const SwigluCall call(gate, up, weights, limit);
  run_kernel(call.p);
  return call.out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("swiglu", TORCH_BOX(&v4npu::cpu::launch_swiglu)); }
