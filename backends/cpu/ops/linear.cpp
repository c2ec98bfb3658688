#include "v4npu/ops/linear.h"

#include "../gemm_launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(linear, LinearParams)

Tensor launch_linear(const Tensor& x_, const Tensor& weight_, ScalarType out_dtype) {
  check_linear(x_, weight_, out_dtype);
  if (!native(x_) || !native(weight_) || !native(out_dtype))
    return call_reference<Tensor>("linear", x_, weight_, out_dtype);

  const Tensor x = dense(x_), weight = dense(weight_);
  LinearParams p{};
  p.num_tokens = x.size(0);
  p.num_rows = weight.size(0);
  p.k = x.size(1);
  Tensor out = uninitialised(x, {p.num_tokens, p.num_rows}, out_dtype);
  const Tensor workspace = reserve(p, x, p.num_tokens, p.k);
  p.x = pointer<void>(x);
  p.weight = pointer<void>(weight);
  p.out = out.mutable_data_ptr();
  p.x_dtype = dtype_of(x);
  p.weight_dtype = dtype_of(weight);
  p.out_dtype = dtype_of(out_dtype);
  run_kernel(p);
  return out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("linear", TORCH_BOX(&v4npu::cpu::launch_linear)); }
