#include "v4npu/ops/rope.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(rope, RopeParams)

Tensor launch_rope(const Tensor& x, const Tensor& positions, const Tensor& freqs, bool inverse) {
  check_rope(x, positions, freqs, inverse);
  if (!native(x)) return call_reference<Tensor>("rope", x, positions, freqs, inverse);

  const RopeCall call(x, positions, freqs, inverse);
  run_kernel(call.p);
  return call.out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("rope", TORCH_BOX(&v4npu::cpu::launch_rope)); }
