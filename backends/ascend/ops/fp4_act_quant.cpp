#include "v4npu/ops/fp4_act_quant.h"

#include <vector>

#include "../launch.h"
#include "ops/check.h"

namespace v4npu::ascend {

std::tuple<Tensor, Tensor> launch_fp4_act_quant(const Tensor& x_, int64_t block_size) {
  check_fp4_act_quant(x_, block_size);
  const bool fits = block_size % 8 == 0 && block_size <= 2048;  // block_quant.h: limits
  if (!ready() || suffix(x_).empty() || !fits) return call_reference<Tensor, Tensor>("fp4_act_quant", x_, block_size);

  const Tensor x = dense(x_);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  const int64_t n = sizes.back(), num_rows = n > 0 ? x.numel() / n : 0;
  sizes.back() = n / 2;
  Tensor q = uninitialised(x, sizes, ScalarType::Char);
  sizes.back() = ceil_div(n, block_size);
  Tensor scale = uninitialised(x, sizes, ScalarType::Float8_e8m0fnu);
  launch("fp4_act_quant_" + suffix(x), num_rows, x, pointer(x), pointer(q), pointer(scale), num_rows, n, block_size);
  return {q, scale};
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("fp4_act_quant", TORCH_BOX(&v4npu::ascend::launch_fp4_act_quant));
}
