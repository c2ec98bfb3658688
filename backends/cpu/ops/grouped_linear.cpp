#include "v4npu/ops/grouped_linear.h"

#include "../gemm_launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(grouped_linear, GroupedLinearParams)

Tensor launch_grouped_linear(const Tensor& x_, const Tensor& weight_, const OptTensor& weight_scale_) {
  check_grouped_linear(x_, weight_, weight_scale_);
  const bool rounds_weight =
      native(weight_) && weight_.scalar_type() == ScalarType::Float && x_.scalar_type() == ScalarType::BFloat16;
  if (!native(x_) || !(weight_scale_ || native(weight_)) || rounds_weight)
    return call_reference<Tensor>("grouped_linear", x_, weight_, weight_scale_);

  using Format = GroupedLinearParams::Format;
  const Tensor x = dense(x_), weight = dense(weight_);
  const OptTensor weight_scale = dense(weight_scale_);
  GroupedLinearParams p{};
  p.num_tokens = x.size(0);
  p.num_groups = x.size(1);
  p.k = x.size(2);
  p.rows_per_group = weight.size(0) / p.num_groups;
  Tensor out = uninitialised(x, {p.num_tokens, p.num_groups, p.rows_per_group});
  const Tensor workspace = reserve(p, x, p.num_tokens, p.k, groups_together(p.num_tokens, p.num_groups));
  p.x = pointer<void>(x);
  p.weight = pointer<void>(weight);
  p.weight_scale = pointer<uint8_t>(weight_scale);
  p.out = out.mutable_data_ptr();
  p.dtype = dtype_of(x);
  p.format = weight_scale                                   ? Format::kFp8
             : weight.scalar_type() == ScalarType::BFloat16 ? Format::kBfloat16
                                                            : Format::kFloat32;
  run_kernel(p);
  return out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("grouped_linear", TORCH_BOX(&v4npu::cpu::launch_grouped_linear)); }
