#include "v4npu/ops/hc_post.h"

#include "../launch.h"

namespace v4npu::ascend {

Tensor launch_hc_post(const Tensor& x_, const Tensor& streams_, const Tensor& post_, const Tensor& comb_) {
  check_hc_post(x_, streams_, post_, comb_);
  const bool known = !suffix(x_).empty() && suffix(x_) == suffix(streams_) && suffix(post_) == "fp32" &&
                     suffix(comb_) == "fp32" && streams_.size(1) <= 8;  // hc_post_kernel.asc: limits
  if (!ready() || !known) return call_reference<Tensor>("hc_post", x_, streams_, post_, comb_);

  const Tensor x = dense(x_), streams = dense(streams_), post = dense(post_), comb = dense(comb_);
  Tensor out = uninitialised_like(streams);
  const int64_t num_tokens = streams.size(0), m = streams.size(1), d = streams.size(2);
  launch("hc_post_" + suffix(x), out.numel() > 0 ? num_tokens : 0, x, pointer(x), pointer(streams), pointer(post),
         pointer(comb), pointer(out), num_tokens, m, d);
  return out;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("hc_post", TORCH_BOX(&v4npu::ascend::launch_hc_post)); }
