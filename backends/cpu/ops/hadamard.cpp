#include "v4npu/ops/hadamard.h"

#include "../launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(hadamard, HadamardParams)

Tensor launch_hadamard(const Tensor& x_) {
  check_hadamard(x_);
  constexpr int64_t kMaxRow = 8192;  // hadamard_kernel.cpp
  if (!native(x_) || x_.size(x_.dim() - 1) > kMaxRow) return call_reference<Tensor>("hadamard", x_);

  const Tensor x = dense(x_);
  Tensor out = torch::stable::empty_like(x);
  HadamardParams p{};
  p.x = pointer<void>(x);
  p.out = out.mutable_data_ptr();
  p.n = x.size(x.dim() - 1);
  p.num_rows = x.numel() / p.n;
  p.dtype = dtype_of(x);
  run_kernel(p);
  return out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("hadamard", TORCH_BOX(&v4npu::cpu::launch_hadamard)); }
