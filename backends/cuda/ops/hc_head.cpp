#include "v4npu/ops/hc_head.h"

#include "../launch.h"

namespace v4npu::cuda {

Tensor launch_hc_head(const Tensor& streams_, const Tensor& fn_, const Tensor& scale_, const Tensor& base_,
                      double norm_eps, double hc_eps) {
  check_hc_head(streams_, fn_, scale_, base_, norm_eps, hc_eps);
  if (!runs(streams_) || !is_float32(fn_) || !is_float32(scale_) || !is_float32(base_) ||
      streams_.size(1) > kMaxStreams || streams_.size(1) * streams_.size(2) > kMaxPieces * kColumns)
    return call_reference<Tensor>("hc_head", streams_, fn_, scale_, base_, norm_eps, hc_eps);

  const Tensor streams = dense(streams_), fn = dense(fn_), scale = dense(scale_), base = dense(base_);
  HcHeadParams p{};
  p.num_tokens = streams.size(0);
  p.hc_mult = streams.size(1);
  p.hidden_size = streams.size(2);
  Tensor y = torch::stable::new_empty(streams, {p.num_tokens, p.hidden_size});
  Tensor mix = torch::stable::new_empty(fn, {p.num_tokens, p.hc_mult});
  p.streams = pointer<void>(streams);
  p.fn = pointer<float>(fn);
  p.scale = pointer<float>(scale);
  p.base = pointer<float>(base);
  p.y = y.mutable_data_ptr();
  p.mix = static_cast<float*>(mix.mutable_data_ptr());
  p.norm_eps = static_cast<float>(norm_eps);
  p.hc_eps = static_cast<float>(hc_eps);
  p.dtype = dtype_of(streams);
  const Products mixes{p.streams, p.fn, p.mix, p.num_tokens, p.hc_mult, p.hc_mult * p.hidden_size, 0, false};
  run_products("hc_head", kernel_name("hc_head_products", p.dtype), mixes, streams);
  run("hc_head", kernel_name("hc_head", p.dtype), p, {p.num_tokens}, kRowThreads, streams);
  return y;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hc_head", TORCH_BOX(&v4npu::cuda::launch_hc_head)); }
