#include "v4npu/ops/hc_head.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

Tensor launch_hc_head(const Tensor& streams, const Tensor& fn, const Tensor& scale, const Tensor& base, double norm_eps,
                      double hc_eps) {
  check_hc_head(streams, fn, scale, base, norm_eps, hc_eps);
  if (!runs(streams) || !is_float32(fn) || !is_float32(scale) || !is_float32(base) || streams.size(1) > kMaxStreams ||
      streams.size(1) * streams.size(2) > kMaxPieces * kColumns)
    return call_reference<Tensor>("hc_head", streams, fn, scale, base, norm_eps, hc_eps);

  const HcHeadCall call(streams, fn, scale, base, norm_eps, hc_eps);
  const HcHeadParams& p = call.p;
  const Products mixes{p.streams, p.fn, p.mix, p.num_tokens, p.hc_mult, p.hc_mult * p.hidden_size, 0, false};
  run_products("hc_head", kernel_name("hc_head_products", p.dtype), mixes, streams);
  run("hc_head", kernel_name("hc_head", p.dtype), p, {p.num_tokens}, kRowThreads, streams);
  return call.y;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hc_head", TORCH_BOX(&v4npu::cuda::launch_hc_head)); }
