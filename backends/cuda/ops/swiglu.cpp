#include "v4npu/ops/swiglu.h"

#include "../launch.h"

namespace v4npu::cuda {

Tensor launch_swiglu(const Tensor& gate_, const Tensor& up_, const OptTensor& weights_, double limit) {
  check_swiglu(gate_, up_, weights_, limit);
  if (!runs(gate_) || up_.scalar_type() != gate_.scalar_type() || !is_float32(weights_))
    return call_reference<Tensor>("swiglu", gate_, up_, weights_, limit);

  const Tensor gate = dense(gate_), up = dense(up_);
  const OptTensor weights = dense(weights_);
  Tensor out = torch::stable::empty_like(gate);
  SwigluParams p{};
  p.gate = pointer<void>(gate);
  p.up = pointer<void>(up);
  p.weights = pointer<float>(weights);
  p.out = out.mutable_data_ptr();
  p.num_tokens = gate.size(0);
  p.intermediate_size = gate.size(1);
  p.limit = static_cast<float>(limit);
  p.dtype = dtype_of(gate);
  run("swiglu", kernel_name("swiglu", p.dtype), p, {p.intermediate_size > 0 ? p.num_tokens : 0}, kRowThreads, gate);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("swiglu", TORCH_BOX(&v4npu::cuda::launch_swiglu)); }
