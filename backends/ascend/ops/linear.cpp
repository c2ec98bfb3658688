#include "v4npu/ops/linear.h"

#include "../products.h"

namespace v4npu::ascend {

Tensor launch_linear(const Tensor& x, const Tensor& weight, ScalarType out_dtype) {
  check_linear(x, weight, out_dtype);
  const Product product{x.size(0), weight.size(0), x.size(1), 1};
  if (x.scalar_type() != weight.scalar_type() || !takes(x.scalar_type(), out_dtype, product))
    return call_reference<Tensor>("linear", x, weight, out_dtype);
  const Tensor out = launch_product("linear", product, dense(x), dense(weight), OptTensor(), out_dtype);
  return torch::stable::view(out, {product.num_tokens, product.num_rows});
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("linear", TORCH_BOX(&v4npu::ascend::launch_linear)); }
