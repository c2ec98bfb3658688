#include "v4npu/ops/hc_head.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(hc_head, HcHeadParams)

Tensor launch_hc_head(const Tensor& streams, const Tensor& fn, const Tensor& scale, const Tensor& base, double norm_eps,
                      double hc_eps) {
  check_hc_head(streams, fn, scale, base, norm_eps, hc_eps);
  if (!native(streams) || !is_float32(fn) || !is_float32(scale) || !is_float32(base))
    return call_reference<Tensor>("hc_head", streams, fn, scale, base, norm_eps, hc_eps);

  const HcHeadCall call(streams, fn, scale, base, norm_eps, hc_eps);
  run_kernel(call.p);
  return call.y;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("hc_head", TORCH_BOX(&v4npu::cpu::launch_hc_head)); }
