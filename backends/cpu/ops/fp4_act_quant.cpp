#include "v4npu/ops/fp4_act_quant.h"

#include <cstring>
#include <stdexcept>
#include <vector>

#include "../launch.h"
#include "ops/check.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(fp4_act_quant, Fp4ActQuantParams)

std::tuple<Tensor, Tensor> launch_fp4_act_quant(const Tensor& x_, int64_t block_size) {
  check_fp4_act_quant(x_, block_size);
  if (!native(x_)) return call_reference<Tensor, Tensor>("fp4_act_quant", x_, block_size);

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
  run_kernel(p);
  // A block with a NaN has a NaN for its scale.
  if (std::memchr(p.scale, 255, static_cast<size_t>(scale.numel())) != nullptr)
    throw std::invalid_argument("e2m1 has no NaN: x must be finite");
  return {q, scale};
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("fp4_act_quant", TORCH_BOX(&v4npu::cpu::launch_fp4_act_quant)); }
