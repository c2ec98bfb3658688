#include "v4npu/ops/swiglu.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

Tensor launch_swiglu(const Tensor& gate, const Tensor& up, const OptTensor& weights, double limit) {
  check_swiglu(gate, up, weights, limit);
  if (!runs(gate) || up.scalar_type() != gate.scalar_type() || !is_float32(weights))
    return call_reference<Tensor>("swiglu", gate, up, weights, limit);

  const SwigluCall call(gate, up, weights, limit);
  const SwigluParams& p = call.p;
  run("swiglu", kernel_name("swiglu", p.dtype), p, {p.intermediate_size > 0 ? p.num_tokens : 0}, kRowThreads, gate);
  return call.out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("swiglu", TORCH_BOX(&v4npu::cuda::launch_swiglu)); }
