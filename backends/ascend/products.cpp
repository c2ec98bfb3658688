#include "products.h"

#include <algorithm>

#include "ops/check.h"

namespace v4npu::ascend {

bool takes(ScalarType type, ScalarType out_dtype, const Product& p) {
  constexpr int64_t kMaxStride = 65535;
  const bool known = native(type) && (out_dtype == type || out_dtype == ScalarType::Float);
  const int64_t reach = type == ScalarType::BFloat16 && p.k % 2 == 0 ? 2 * kMaxStride : kMaxStride;
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

Tensor expanded(const Tensor& codes_, const Tensor& scale_) {
  const Tensor codes = dense(codes_), scale = dense(scale_);
  const int64_t num_rows = codes.size(0), k = codes.size(1);
  Tensor x = uninitialised(codes, {num_rows, k}, ScalarType::BFloat16);
  launch("fp8_linear_x", ceil_div(num_rows, 32) * ceil_div(k, 128), x, pointer(codes), pointer(scale), pointer(x),
         num_rows, k);
  return x;
}

Tensor launch_expert_product(const Tensor& x, const Tensor& starts, const Tensor& weight_, const OptTensor& scale_,
                             ScalarType out_dtype) {
  const Matrices weight(weight_);
  const OptTensor scale = dense(scale_);
  const int64_t num_rows = x.size(0), k = x.size(1), columns = weight_.size(1), num_experts = weight_.size(0);
  Tensor out = uninitialised(x, {num_rows, ceil_div(columns, 16) * 16}, out_dtype);
  // As if all experts that can be chosen had equally many rows.
  const int64_t chosen = std::min(num_rows, num_experts);
  const AscendTiles tiles = tiles_of(x, ceil_div(num_rows, chosen), columns, chosen);
  const std::string form = !scale ? "" : weight_.scalar_type() == ScalarType::Char ? "fp4_" : "fp8_";
  const std::string kernel = "moe_experts_" + form + suffix(x) + (out_dtype == x.scalar_type() ? "" : "_fp32");
  const auto run = [&](auto... more) {
    launch_on(Core::kCube, kernel, tiles.count, x, pointer(x), pointer(weight.stack), more..., pointer(starts),
              pointer(out), num_rows, columns, k, num_experts, weight.rows_apart, tiles.rows, tiles.columns);
  };
  if (scale) {
    const Tensor slots = bytes(x, tiles.blocks * tiles.slot_bytes);
    run(pointer(scale), pointer(slots));
  } else {
    run();
  }
  return out;
}

Tensor launch_quantised(const std::string& op, const Tensor& x_, const OptTensor& x_scale, const Tensor& weight,
                        const Tensor& weight_scale, ScalarType out_dtype) {
  const Product product{x_.size(0), weight.size(0), x_.size(1), 1};
  const ScalarType type = x_scale ? ScalarType::BFloat16 : x_.scalar_type();
  if (!takes(type, out_dtype, product))
    return call_reference<Tensor>(op.c_str(), x_, x_scale, weight, weight_scale, out_dtype);
  const Tensor x = x_scale ? expanded(x_, *x_scale) : dense(x_);
  const Tensor out = launch_product(op, product, x, dense(weight), dense(weight_scale), out_dtype);
  return torch::stable::view(out, {product.num_tokens, product.num_rows});
}

}  // namespace v4npu::ascend
