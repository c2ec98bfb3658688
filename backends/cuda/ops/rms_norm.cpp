#include "v4npu/ops/rms_norm.h"

#include "../launch.h"

namespace v4npu::cuda {

Tensor launch_rms_norm(const Tensor& x_, const OptTensor& weight_, double eps) {
  check_rms_norm(x_, weight_, eps);
  if (!runs(x_) || !native(weight_)) return call_reference<Tensor>("rms_norm", x_, weight_, eps);

  const Tensor x = dense(x_);
  const OptTensor weight = dense(weight_);
  Tensor out = torch::stable::empty_like(x);
  RmsNormParams p{};
  p.x = pointer<void>(x);
  p.weight = pointer<void>(weight);
  p.out = out.mutable_data_ptr();
  p.n = x.size(x.dim() - 1);
  p.num_rows = p.n > 0 ? x.numel() / p.n : 0;
  p.eps = static_cast<float>(eps);
  p.dtype = dtype_of(x);
  p.weight_dtype = weight ? dtype_of(*weight) : p.dtype;
  const int64_t blocks = p.n <= kWarpRow ? ceil_of(p.num_rows, kRowWarps) : p.num_rows;
  run("rms_norm", kernel_name("rms_norm", p.dtype, p.weight_dtype), p, {blocks}, kRowThreads, x);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("rms_norm", TORCH_BOX(&v4npu::cuda::launch_rms_norm)); }
