#include "v4npu/ops/rope.h"

#include "../launch.h"

namespace v4npu::ascend {

Tensor launch_rope(const Tensor& x_, const Tensor& positions_, const Tensor& freqs_, bool inverse) {
  check_rope(x_, positions_, freqs_, inverse);
  const int64_t head_dim = x_.size(x_.dim() - 1), rope_dim = 2 * freqs_.size(0);
  const bool fits = rope_dim > 0 && rope_dim <= 2048 && head_dim - rope_dim <= 8192;  // rope_kernel.asc: limits
  if (!ready() || suffix(x_).empty() || !fits) return call_reference<Tensor>("rope", x_, positions_, freqs_, inverse);

  const Tensor x = dense(x_), positions = dense(positions_), freqs = dense(freqs_);
  Tensor out = uninitialised_like(x);
  const int64_t num_tokens = x.size(0), num_heads = x.numel() > 0 ? x.numel() / (num_tokens * head_dim) : 0;
  launch("rope_" + suffix(x), num_heads > 0 ? num_tokens : 0, x, pointer(x), pointer(positions), pointer(freqs),
         pointer(out), num_tokens, num_heads, head_dim, rope_dim, static_cast<int32_t>(inverse));
  return out;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("rope", TORCH_BOX(&v4npu::ascend::launch_rope)); }
