#include "v4npu/ops/grouped_linear.h"

#include "../products.h"

namespace v4npu::ascend {

Tensor launch_grouped_linear(const Tensor& x, const Tensor& weight, const OptTensor& weight_scale) {
  check_grouped_linear(x, weight, weight_scale);
  const Product product{x.size(0), weight.size(0) / x.size(1), x.size(2), x.size(1)};
  const bool known = weight_scale || weight.scalar_type() == x.scalar_type();
  if (!known || !takes(x.scalar_type(), x.scalar_type(), product))
    return call_reference<Tensor>("grouped_linear", x, weight, weight_scale);
  return launch_product(weight_scale ? "grouped_linear_fp8" : "grouped_linear", product, dense(x), dense(weight),
                        dense(weight_scale), x.scalar_type());
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("grouped_linear", TORCH_BOX(&v4npu::ascend::launch_grouped_linear));
}
