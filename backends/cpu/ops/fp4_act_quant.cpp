#include "v4npu/ops/fp4_act_quant.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(fp4_act_quant, Fp4ActQuantParams)

std::tuple<Tensor, Tensor> launch_fp4_act_quant(const Tensor& x, int64_t block_size) {
  check_fp4_act_quant(x, block_size);
  if (!native(x)) return call_reference<Tensor, Tensor>("fp4_act_quant", x, block_size);

  const Fp4ActQuantCall call(x, block_size);
  run_kernel(call.p);
  return {call.q, call.scale};
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("fp4_act_quant", TORCH_BOX(&v4npu::cpu::launch_fp4_act_quant)); }
