#include "v4npu/ops/act_quant.h"

#include <vector>

#include "../launch.h"
#include "ops/check.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor> launch_act_quant(const Tensor& x_, int64_t block_size) {
  check_act_quant(x_, block_size);
  if (!runs(x_)) return call_reference<Tensor, Tensor>("act_quant", x_, block_size);

  const Tensor x = dense(x_);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  Tensor q = torch::stable::new_empty(x, sizes, ScalarType::Float8_e4m3fn);
  sizes.back() = ceil_div(sizes.back(), block_size);
  Tensor scale = torch::stable::new_empty(x, sizes, ScalarType::Float8_e8m0fnu);
  ActQuantParams p{};
  p.x = pointer<void>(x);
  p.q = static_cast<uint8_t*>(q.mutable_data_ptr());
  p.scale = static_cast<uint8_t*>(scale.mutable_data_ptr());
  p.n = x.size(x.dim() - 1);
  p.num_rows = p.n > 0 ? x.numel() / p.n : 0;
  p.block_size = block_size;
  p.dtype = dtype_of(x);
  const int64_t blocks = ceil_of(p.num_rows * ceil_of(p.n, block_size), kRowWarps);
  run("act_quant", kernel_name("act_quant", p.dtype), p, {blocks}, kRowThreads, x);
  return {q, scale};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("act_quant", TORCH_BOX(&v4npu::cuda::launch_act_quant)); }
