#include "v4npu/ops/hc_pre.h"

#include "../launch.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor, Tensor> launch_hc_pre(const Tensor& streams_, const Tensor& fn_, const Tensor& scale_,
                                                 const Tensor& base_, double norm_eps, double hc_eps,
                                                 int64_t sinkhorn_iters) {
  check_hc_pre(streams_, fn_, scale_, base_, norm_eps, hc_eps, sinkhorn_iters);
  if (!runs(streams_) || !is_float32(fn_) || !is_float32(scale_) || !is_float32(base_) ||
      streams_.size(1) > kMaxStreams || streams_.size(1) * streams_.size(2) > kMaxPieces * kColumns)
    return call_reference<Tensor, Tensor, Tensor>("hc_pre", streams_, fn_, scale_, base_, norm_eps, hc_eps,
                                                  sinkhorn_iters);

  const Tensor streams = dense(streams_), fn = dense(fn_), scale = dense(scale_), base = dense(base_);
  HcPreParams p{};
  p.num_tokens = streams.size(0);
  p.hc_mult = streams.size(1);
  p.hidden_size = streams.size(2);
  const int64_t t = p.num_tokens, m = p.hc_mult;
  Tensor y = torch::stable::new_empty(streams, {t, p.hidden_size});
  Tensor post = torch::stable::new_empty(fn, {t, m}), comb = torch::stable::new_empty(fn, {t, m, m});
  Tensor mix = torch::stable::new_empty(fn, {t, (2 + m) * m});
  p.streams = pointer<void>(streams);
  p.fn = pointer<float>(fn);
  p.scale = pointer<float>(scale);
  p.base = pointer<float>(base);
  p.y = y.mutable_data_ptr();
  p.post = static_cast<float*>(post.mutable_data_ptr());
  p.comb = static_cast<float*>(comb.mutable_data_ptr());
  p.mix = static_cast<float*>(mix.mutable_data_ptr());
  p.norm_eps = static_cast<float>(norm_eps);
  p.hc_eps = static_cast<float>(hc_eps);
  p.sinkhorn_iters = static_cast<int32_t>(sinkhorn_iters);
  p.dtype = dtype_of(streams);
  const Products mixes{p.streams, p.fn, p.mix, t, (2 + m) * m, m * p.hidden_size, 0, false};
  run_products("hc_pre", kernel_name("hc_pre_products", p.dtype), mixes, streams);
  run("hc_pre", kernel_name("hc_pre", p.dtype), p, {t}, kRowThreads, streams);
  return {y, post, comb};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hc_pre", TORCH_BOX(&v4npu::cuda::launch_hc_pre)); }
