#include "v4npu/ops/linear.h"

#include "../gemm_launch.h"

namespace v4npu::cuda {

Tensor launch_linear(const Tensor& x_, const Tensor& weight_, ScalarType out_dtype) {
  check_linear(x_, weight_, out_dtype);
  const bool wide_weight = weight_.scalar_type() == ScalarType::Float;
  if (!runs(x_) || !native(weight_) || !native(out_dtype) || (wide_weight && x_.size(1) > kMaxPieces * kColumns))
    return call_reference<Tensor>("linear", x_, weight_, out_dtype);

  const Tensor x = dense(x_), weight = dense(weight_);
  const int64_t tokens = x.size(0), rows = weight.size(0), k = x.size(1);
  Tensor out = uninitialised(x, {tokens, rows}, out_dtype);
  const std::string kernel = kernel_name("linear", dtype_of(x), dtype_of(weight));
  if (wide_weight) {
    const bool narrows = out_dtype == ScalarType::BFloat16;
    run_products("linear", kernel,
                 {pointer<void>(x), pointer<void>(weight), out.mutable_data_ptr(), tokens, rows, k, 0, narrows}, x);
    return out;
  }
  Gemm p{};
  p.x = pointer<void>(x);
  p.weight = pointer<void>(weight);
  p.out = out.mutable_data_ptr();
  p.num_tokens = tokens;
  p.num_rows = rows;
  p.k = k;
  p.x_stride = k;
  p.out_stride = rows;
  p.out_float32 = out_dtype == ScalarType::Float;
  run_gemm("linear", kernel, p, 1, x, weight);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("linear", TORCH_BOX(&v4npu::cuda::launch_linear)); }
