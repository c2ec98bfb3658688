#include "v4npu/ops/hc_post.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(hc_post, HcPostParams)

Tensor launch_hc_post(const Tensor& x, const Tensor& streams, const Tensor& post, const Tensor& comb) {
  check_hc_post(x, streams, post, comb);
  constexpr int64_t kMaxStreams = 16;  // hc_post_kernel.cpp
  if (!native(streams) || x.scalar_type() != streams.scalar_type() || !is_float32(post) || !is_float32(comb) ||
      streams.size(1) > kMaxStreams)
    return call_reference<Tensor>("hc_post", x, streams, post, comb);

  const HcPostCall call(x, streams, post, comb);
  run_kernel(call.p);
  return call.out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("hc_post", TORCH_BOX(&v4npu::cpu::launch_hc_post)); }
