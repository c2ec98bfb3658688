#include "v4npu/ops/hc_pre.h"

#include "../launch.h"

namespace v4npu::ascend {

std::tuple<Tensor, Tensor, Tensor> launch_hc_pre(const Tensor& streams_, const Tensor& fn_, const Tensor& scale_,
                                                 const Tensor& base_, double norm_eps, double hc_eps,
                                                 int64_t sinkhorn_iters) {
  check_hc_pre(streams_, fn_, scale_, base_, norm_eps, hc_eps, sinkhorn_iters);
  const int64_t num_tokens = streams_.size(0), m = streams_.size(1), d = streams_.size(2);
  const bool fits = m > 0 && m <= 8 && d > 0;  // hc_pre_kernel.asc: limits
  const bool known = suffix(fn_) == "fp32" && suffix(scale_) == "fp32" && suffix(base_) == "fp32";
  if (!ready() || suffix(streams_).empty() || !fits || !known)
    return call_reference<Tensor, Tensor, Tensor>("hc_pre", streams_, fn_, scale_, base_, norm_eps, hc_eps,
                                                  sinkhorn_iters);

  const Tensor streams = dense(streams_), fn = dense(fn_), scale = dense(scale_), base = dense(base_);
  Tensor y = uninitialised(streams, {num_tokens, d}, streams.scalar_type());
  Tensor post = uninitialised(streams, {num_tokens, m}, ScalarType::Float);
  Tensor comb = uninitialised(streams, {num_tokens, m, m}, ScalarType::Float);
  launch("hc_pre_" + suffix(streams), num_tokens, streams, pointer(streams), pointer(fn), pointer(scale), pointer(base),
         pointer(y), pointer(post), pointer(comb), num_tokens, m, d, static_cast<float>(norm_eps),
         static_cast<float>(hc_eps), static_cast<int32_t>(sinkhorn_iters));
  return {y, post, comb};
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("hc_pre", TORCH_BOX(&v4npu::ascend::launch_hc_pre)); }
