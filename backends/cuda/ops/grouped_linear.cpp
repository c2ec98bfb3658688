#include "v4npu/ops/grouped_linear.h"

#include "../gemm_launch.h"

namespace v4npu::cuda {

Tensor launch_grouped_linear(const Tensor& x_, const Tensor& weight_, const OptTensor& weight_scale_) {
  check_grouped_linear(x_, weight_, weight_scale_);
  const bool float32 = weight_.scalar_type() == ScalarType::Float;
  if (!runs(x_) || !(weight_scale_ || native(weight_)) || (float32 && !is_float32(x_)))  // which it would round
    return call_reference<Tensor>("grouped_linear", x_, weight_, weight_scale_);

  const Tensor x = dense(x_), weight = dense(weight_);
  const OptTensor weight_scale = dense(weight_scale_);
  const int64_t groups = x.size(1);
  Gemm p{};
  p.num_tokens = x.size(0);
  p.k = x.size(2);
  p.num_rows = weight.size(0) / groups;
  Tensor out = uninitialised(x, {p.num_tokens, groups, p.num_rows});
  p.x = pointer<void>(x);
  p.weight = pointer<void>(weight);
  p.out = out.mutable_data_ptr();
  p.weight_scale = pointer<uint8_t>(weight_scale);
  p.x_stride = groups * p.k;
  p.out_stride = groups * p.num_rows;
  p.group_x = p.k;
  p.group_rows = p.group_out = p.num_rows;
  p.out_float32 = x.scalar_type() == ScalarType::Float;
  const std::string kernel = kernel_name("grouped_linear", dtype_of(x));
  run_gemm("grouped_linear",
           kernel + (weight_scale ? "_fp8"
                     : float32    ? "_fp32"
                                  : "_bf16"),
           p, groups, x, weight, !float32);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("grouped_linear", TORCH_BOX(&v4npu::cuda::launch_grouped_linear)); }
