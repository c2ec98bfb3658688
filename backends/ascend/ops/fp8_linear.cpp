#include "v4npu/ops/fp8_linear.h"

#include "../products.h"

namespace v4npu::ascend {
namespace {

// fp8_linear_kernel_dav3510.asc: the codes as they are, each scale of 128 values as four of 32.
Tensor launch_mx(const Tensor& x, const Tensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                 ScalarType out_dtype) {
  const int64_t num_tokens = x.size(0), num_rows = weight.size(0), k = x.size(1);
  const Tensor x_scales = bytes(x, num_tokens * k / 32), weight_scales = bytes(x, num_rows * k / 32);
  launch("fp8_linear_x_scales", num_tokens, x, pointer(x_scale), pointer(x_scales), num_tokens, k);
  launch("fp8_linear_weight_scales", num_rows, x, pointer(weight_scale), pointer(weight_scales), num_rows, k);
  const AscendTiles tiles = tiles_of(x, num_tokens, num_rows, 1);
  Tensor out = uninitialised(x, {num_tokens, (num_rows + 15) / 16 * 16}, out_dtype);
  launch_on(Core::kCube, "fp8_linear_mx_" + suffix(out), tiles.count, x, pointer(x), pointer(x_scales), pointer(weight),
            pointer(weight_scales), pointer(out), num_tokens, num_rows, k, int64_t{1}, tiles.rows, tiles.columns);
  return dense(torch::stable::narrow(out, 1, 0, num_rows));
}

}  // namespace

Tensor launch_fp8_linear(const Tensor& x, const OptTensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                         ScalarType out_dtype) {
  check_fp8_linear(x, x_scale, weight, weight_scale, out_dtype);
  const int64_t k = x.size(1);
  if (ready() && x_scale && native(out_dtype) && architecture() == 3510 && k > 0 && k <= 65535 && k % 64 == 0)
    return launch_mx(dense(x), dense(*x_scale), dense(weight), dense(weight_scale), out_dtype);
  return launch_quantised("fp8_linear", x, x_scale, weight, weight_scale, out_dtype);
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("fp8_linear", TORCH_BOX(&v4npu::ascend::launch_fp8_linear)); }
