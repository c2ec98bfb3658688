#include "v4npu/ops/rms_norm.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

Tensor launch_rms_norm(const Tensor& x, const OptTensor& weight, double eps) {
  check_rms_norm(x, weight, eps);
  if (!runs(x) || !native(weight)) return call_reference<Tensor>("rms_norm", x, weight, eps);

  const RmsNormCall call(x, weight, eps);
  const RmsNormParams& p = call.p;
  const int64_t blocks = p.n <= kWarpRow ? ceil_div(p.num_rows, kRowWarps) : p.num_rows;
  run("rms_norm", kernel_name("rms_norm", p.dtype, p.weight_dtype), p, {blocks}, kRowThreads, x);
  return call.out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("rms_norm", TORCH_BOX(&v4npu::cuda::launch_rms_norm)); }
