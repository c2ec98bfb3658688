#include "v4npu/ops/fp4_act_quant.h"

#include <vector>

#include "../launch.h"
#include "ops/check.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor> launch_fp4_act_quant(const Tensor& x_, int64_t block_size) {
  check_fp4_act_quant(x_, block_size);
  if (!runs(x_)) return call_reference<Tensor, Tensor>("fp4_act_quant", x_, block_size);

  const Tensor x = dense(x_);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  Fp4ActQuantParams p{};
  p.n = sizes.back();
  sizes.back() = p.n / 2;
  Tensor q = torch::stable::new_empty(x, sizes, ScalarType::Char);
  sizes.back() = ceil_div(p.n, block_size);
  Tensor scale = torch::stable::new_empty(x, sizes, ScalarType::Float8_e8m0fnu);
  p.x = pointer<void>(x);
  p.q = static_cast<uint8_t*>(q.mutable_data_ptr());
  p.scale = static_cast<uint8_t*>(scale.mutable_data_ptr());
  p.num_rows = p.n > 0 ? x.numel() / p.n : 0;
  p.block_size = block_size;
  p.dtype = dtype_of(x);
  const int64_t warps = block_size % 2 == 0 ? p.num_rows * ceil_of(p.n, block_size) : p.num_rows;
  run("fp4_act_quant", kernel_name("fp4_act_quant", p.dtype), p, {ceil_of(warps, kRowWarps)}, kRowThreads, x);
  return {q, scale};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("fp4_act_quant", TORCH_BOX(&v4npu::cuda::launch_fp4_act_quant)); }
