#include "products.h"

#include "ops/check.h"

namespace v4npu::ascend {

bool takes(const Tensor& x, ScalarType out_dtype, const Product& p) {
  constexpr int64_t kMaxStride = 65535;
  const bool known =
      (suffix(x) == "fp32" || suffix(x) == "bf16") && (out_dtype == x.scalar_type() || out_dtype == ScalarType::Float);
  const int64_t reach = suffix(x) == "bf16" && p.k % 2 == 0 ? 2 * kMaxStride : kMaxStride;
  return ready() && known && p.k > 0 && p.k <= kMaxStride && p.groups * p.k <= reach;
}

Tensor launch_product(const std::string& op, const Product& p, const Tensor& x, const Tensor& weight,
                      const OptTensor& scale, ScalarType out_dtype) {
  Tensor out = uninitialised(x, {p.num_tokens, p.groups, ceil_div(p.num_rows, 16) * 16}, out_dtype);
  const AscendTiles tiles = tiles_of(x, p.num_tokens, p.num_rows, p.groups);
  const std::string kernel = op + "_" + suffix(x) + (out_dtype == x.scalar_type() ? "" : "_fp32");
  if (scale) {
    const Tensor slots = bytes(x, tiles.blocks * tiles.slot_bytes);
    launch_on(Core::kCube, kernel, tiles.count, x, pointer(x), pointer(weight), pointer(scale), pointer(slots),
              pointer(out), p.num_tokens, p.num_rows, p.k, p.groups, tiles.rows, tiles.columns);
  } else {
    launch_on(Core::kCube, kernel, tiles.count, x, pointer(x), pointer(weight), pointer(out), p.num_tokens, p.num_rows,
              p.k, p.groups, tiles.rows, tiles.columns);
  }
  return dense(torch::stable::narrow(out, 2, 0, p.num_rows));
}

Tensor launch_quantised(const std::string& op, const Tensor& x_, const OptTensor& x_scale, const Tensor& weight,
                        const Tensor& weight_scale, ScalarType out_dtype) {
  const Product product{x_.size(0), weight.size(0), x_.size(1), 1};
  Tensor x = dense(x_);
  if (x_scale) {
    x = uninitialised(x_, {product.num_tokens, product.k}, ScalarType::BFloat16);
    if (takes(x, out_dtype, product))
      launch("fp8_linear_x", ceil_div(product.num_tokens, 32) * ceil_div(product.k, 128), x, pointer(dense(x_)),
             pointer(dense(*x_scale)), pointer(x), product.num_tokens, product.k);
  }
  if (!takes(x, out_dtype, product))
    return call_reference<Tensor>(op.c_str(), x_, x_scale, weight, weight_scale, out_dtype);
  const Tensor out = launch_product(op, product, x, dense(weight), dense(weight_scale), out_dtype);
  return torch::stable::view(out, {product.num_tokens, product.num_rows});
}

}  // namespace v4npu::ascend
