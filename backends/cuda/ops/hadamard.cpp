#include "v4npu/ops/hadamard.h"

#include "../launch.h"

namespace v4npu::cuda {

Tensor launch_hadamard(const Tensor& x_) {
  check_hadamard(x_);
  if (!runs(x_) || x_.size(x_.dim() - 1) > kMaxHadamard) return call_reference<Tensor>("hadamard", x_);

  const Tensor x = dense(x_);
  Tensor out = torch::stable::empty_like(x);
  HadamardParams p{};
  p.x = pointer<void>(x);
  p.out = out.mutable_data_ptr();
  p.n = x.size(x.dim() - 1);
  p.num_rows = x.numel() / p.n;
  p.dtype = dtype_of(x);
  run("hadamard", kernel_name("hadamard", p.dtype), p, {ceil_of(p.num_rows, kRowWarps)}, kRowThreads, x);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hadamard", TORCH_BOX(&v4npu::cuda::launch_hadamard)); }
