#include "v4npu/ops/hc_post.h"

#include "../launch.h"

namespace v4npu::cuda {

Tensor launch_hc_post(const Tensor& x_, const Tensor& streams_, const Tensor& post_, const Tensor& comb_) {
  check_hc_post(x_, streams_, post_, comb_);
  if (!runs(streams_) || x_.scalar_type() != streams_.scalar_type() || !is_float32(post_) || !is_float32(comb_) ||
      streams_.size(1) > kMaxStreams)
    return call_reference<Tensor>("hc_post", x_, streams_, post_, comb_);

  const Tensor x = dense(x_), streams = dense(streams_), post = dense(post_), comb = dense(comb_);
  Tensor out = torch::stable::empty_like(streams);
  HcPostParams p{};
  p.x = pointer<void>(x);
  p.streams = pointer<void>(streams);
  p.post = pointer<float>(post);
  p.comb = pointer<float>(comb);
  p.out = out.mutable_data_ptr();
  p.num_tokens = streams.size(0);
  p.hc_mult = streams.size(1);
  p.hidden_size = streams.size(2);
  p.dtype = dtype_of(streams);
  const int64_t columns = ceil_of(p.hidden_size, kRowThreads * kChunk);
  run("hc_post", kernel_name("hc_post", p.dtype), p, {p.num_tokens, columns}, kRowThreads, x);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hc_post", TORCH_BOX(&v4npu::cuda::launch_hc_post)); }
