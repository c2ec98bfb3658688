#include "v4npu/ops/hadamard.h"

#include <cmath>

#include "../launch.h"

namespace v4npu::ascend {

Tensor launch_hadamard(const Tensor& x_) {
  check_hadamard(x_);
  const int64_t n = x_.size(x_.dim() - 1);
  if (!ready() || suffix(x_).empty() || n > 2048)  // hadamard_kernel.asc: limits
    return call_reference<Tensor>("hadamard", x_);

  const Tensor x = dense(x_);
  Tensor out = uninitialised_like(x);
  const int64_t num_rows = x.numel() / n;
  launch("hadamard_" + suffix(x), num_rows, x, pointer(x), pointer(out), num_rows, n,
         static_cast<float>(1.0 / std::sqrt(static_cast<double>(n))));
  return out;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("hadamard", TORCH_BOX(&v4npu::ascend::launch_hadamard)); }
