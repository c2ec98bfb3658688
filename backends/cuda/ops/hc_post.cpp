#include "v4npu/ops/hc_post.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

Tensor launch_hc_post(const Tensor& x, const Tensor& streams, const Tensor& post, const Tensor& comb) {
  check_hc_post(x, streams, post, comb);
  if (!runs(streams) || x.scalar_type() != streams.scalar_type() || !is_float32(post) || !is_float32(comb) ||
      streams.size(1) > kMaxStreams)
    return call_reference<Tensor>("hc_post", x, streams, post, comb);

  const HcPostCall call(x, streams, post, comb);
  const HcPostParams& p = call.p;
  const int64_t columns = ceil_div(p.hidden_size, kRowThreads * kChunk);
  run("hc_post", kernel_name("hc_post", p.dtype), p, {p.num_tokens, columns}, kRowThreads, x);
  return call.out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hc_post", TORCH_BOX(&v4npu::cuda::launch_hc_post)); }
