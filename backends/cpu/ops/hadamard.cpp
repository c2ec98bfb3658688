#include "v4npu/ops/hadamard.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(hadamard, HadamardParams)

Tensor launch_hadamard(const Tensor& x) {
  check_hadamard(x);
  constexpr int64_t kMaxRow = 8192;  // hadamard_kernel.cpp
  if (!native(x) || x.size(x.dim() - 1) > kMaxRow) return call_reference<Tensor>("hadamard", x);

  const HadamardCall call(x);
  run_kernel(call.p);
  return call.out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("hadamard", TORCH_BOX(&v4npu::cpu::launch_hadamard)); }
