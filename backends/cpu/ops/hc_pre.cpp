#include "v4npu/ops/hc_pre.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(hc_pre, HcPreParams)

std::tuple<Tensor, Tensor, Tensor> launch_hc_pre(const Tensor& streams, const Tensor& fn, const Tensor& scale,
                                                 const Tensor& base, double norm_eps, double hc_eps,
                                                 int64_t sinkhorn_iters) {
  check_hc_pre(streams, fn, scale, base, norm_eps, hc_eps, sinkhorn_iters);
  if (!native(streams) || !is_float32(fn) || !is_float32(scale) || !is_float32(base))
    return call_reference<Tensor, Tensor, Tensor>("hc_pre", streams, fn, scale, base, norm_eps, hc_eps, sinkhorn_iters);

  const HcPreCall call(streams, fn, scale, base, norm_eps, hc_eps, sinkhorn_iters);
  run_kernel(call.p);
  return {call.y, call.post, call.comb};
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("hc_pre", TORCH_BOX(&v4npu::cpu::launch_hc_pre)); }
