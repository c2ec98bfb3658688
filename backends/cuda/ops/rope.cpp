#include "v4npu/ops/rope.h"

#include "../launch.h"

namespace v4npu::cuda {

Tensor launch_rope(const Tensor& x_, const Tensor& positions_, const Tensor& freqs_, bool inverse) {
  check_rope(x_, positions_, freqs_, inverse);
  if (!runs(x_)) return call_reference<Tensor>("rope", x_, positions_, freqs_, inverse);

  const Tensor x = dense(x_), positions = dense(positions_), freqs = dense(freqs_);
  Tensor out = torch::stable::empty_like(x);
  RopeParams p{};
  p.x = pointer<void>(x);
  p.positions = pointer<int64_t>(positions);
  p.freqs = pointer<float>(freqs);
  p.out = out.mutable_data_ptr();
  p.num_tokens = x.size(0);
  p.head_dim = x.size(x.dim() - 1);
  p.num_heads = x.numel() > 0 ? x.numel() / (p.num_tokens * p.head_dim) : 0;
  p.rope_dim = 2 * freqs.size(0);
  p.inverse = inverse;
  p.dtype = dtype_of(x);
  run("rope", kernel_name("rope", p.dtype), p, {p.num_heads > 0 ? p.num_tokens : 0}, kRowThreads, x);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("rope", TORCH_BOX(&v4npu::cuda::launch_rope)); }
