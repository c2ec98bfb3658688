#include "v4npu/ops/hc_pre.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor, Tensor> launch_hc_pre(const Tensor& streams, const Tensor& fn, const Tensor& scale,
                                                 const Tensor& base, double norm_eps, double hc_eps,
                                                 int64_t sinkhorn_iters) {
  check_hc_pre(streams, fn, scale, base, norm_eps, hc_eps, sinkhorn_iters);
  if (!runs(streams) || !is_float32(fn) || !is_float32(scale) || !is_float32(base) || streams.size(1) > kMaxStreams ||
      streams.size(1) * streams.size(2) > kMaxPieces * kColumns)
    return call_reference<Tensor, Tensor, Tensor>("hc_pre", streams, fn, scale, base, norm_eps, hc_eps, sinkhorn_iters);

  const HcPreCall call(streams, fn, scale, base, norm_eps, hc_eps, sinkhorn_iters);
  const HcPreParams& p = call.p;
  const Products mixes{p.streams, p.fn, p.mix, p.num_tokens, call.mix.size(1), p.hc_mult * p.hidden_size, 0, false};
  run_products("hc_pre", kernel_name("hc_pre_products", p.dtype), mixes, streams);
  run("hc_pre", kernel_name("hc_pre", p.dtype), p, {p.num_tokens}, kRowThreads, streams);
  return {call.y, call.post, call.comb};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hc_pre", TORCH_BOX(&v4npu::cuda::launch_hc_pre)); }
