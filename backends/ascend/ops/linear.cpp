#include "v4npu/ops/linear.h"

#include "../launch.h"
#include "ops/check.h"

namespace v4npu::ascend {

Tensor launch_linear(const Tensor& x_, const Tensor& weight_, ScalarType out_dtype) {
  check_linear(x_, weight_, out_dtype);
  const int64_t num_tokens = x_.size(0), k = x_.size(1), num_rows = weight_.size(0);
  const bool fits = k > 0 && k <= 65535;  // linear_kernel.asc: limits
  const bool known = (suffix(x_) == "fp32" || suffix(x_) == "bf16") && x_.scalar_type() == weight_.scalar_type() &&
                     (out_dtype == x_.scalar_type() || out_dtype == ScalarType::Float);
  if (!ready() || !fits || !known) return call_reference<Tensor>("linear", x_, weight_, out_dtype);

  const Tensor x = dense(x_), weight = dense(weight_);
  Tensor out = uninitialised(x, {num_tokens, ceil_div(num_rows, 16) * 16}, out_dtype);
  const AscendTiles tiles = tiles_of(x, num_tokens, num_rows, 1);
  launch_on(Core::kCube, "linear_" + suffix(x) + (out_dtype == x.scalar_type() ? "" : "_fp32"), tiles.count, x,
            pointer(x), pointer(weight), pointer(out), num_tokens, num_rows, k, tiles.rows, tiles.columns);
  return dense(torch::stable::narrow(out, 1, 0, num_rows));
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("linear", TORCH_BOX(&v4npu::ascend::launch_linear)); }
