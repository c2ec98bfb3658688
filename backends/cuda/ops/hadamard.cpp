#include "v4npu/ops/hadamard.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

Tensor launch_hadamard(const Tensor& x) {
  check_hadamard(x);
  if (!runs(x) || x.size(x.dim() - 1) > kMaxHadamard) return call_reference<Tensor>("hadamard", x);

  const HadamardCall call(x);
  const HadamardParams& p = call.p;
  run("hadamard", kernel_name("hadamard", p.dtype), p, {ceil_div(p.num_rows, kRowWarps)}, kRowThreads, x);
  return call.out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hadamard", TORCH_BOX(&v4npu::cuda::launch_hadamard)); }
