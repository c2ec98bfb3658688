#include "v4npu/ops/rope.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

Tensor launch_rope(const Tensor& x, const Tensor& positions, const Tensor& freqs, bool inverse) {
  check_rope(x, positions, freqs, inverse);
  if (!runs(x)) return call_reference<Tensor>("rope", x, positions, freqs, inverse);

  const RopeCall call(x, positions, freqs, inverse);
  const RopeParams& p = call.p;
  run("rope", kernel_name("rope", p.dtype), p, {p.num_heads > 0 ? p.num_tokens : 0}, kRowThreads, x);
  return call.out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("rope", TORCH_BOX(&v4npu::cuda::launch_rope)); }
