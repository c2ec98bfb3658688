#include "v4npu/ops/gate.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(gate, GateParams)

std::tuple<Tensor, Tensor> launch_gate(const Tensor& x, const Tensor& weight, const OptTensor& bias, int64_t topk,
                                       double route_scale) {
  check_gate(x, weight, bias, topk, route_scale);
  if (!native(x) || !native(weight) || !is_float32(bias))
    return call_reference<Tensor, Tensor>("gate", x, weight, bias, topk, route_scale);

  const GateCall call(x, weight, bias, topk, route_scale);
  run_kernel(call.p);
  return {call.indices, call.weights};
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("gate", TORCH_BOX(&v4npu::cpu::launch_gate)); }
