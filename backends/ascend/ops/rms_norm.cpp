#include "v4npu/ops/rms_norm.h"

#include "../launch.h"

namespace v4npu::ascend {

Tensor launch_rms_norm(const Tensor& x_, const OptTensor& weight_, double eps) {
  check_rms_norm(x_, weight_, eps);
  std::string kind = suffix(x_);
  const bool mixed = weight_ && weight_->scalar_type() != x_.scalar_type();
  if (mixed) kind += suffix(*weight_) == "fp32" ? "_fp32" : "_none";
  if (!ready() || kind.empty() || (mixed && kind != "bf16_fp32"))
    return call_reference<Tensor>("rms_norm", x_, weight_, eps);

  const Tensor x = dense(x_);
  const OptTensor weight = dense(weight_);
  Tensor out = uninitialised_like(x);
  const int64_t n = x.size(x.dim() - 1), num_rows = n > 0 ? x.numel() / n : 0;
  launch("rms_norm_" + kind, num_rows, x, pointer(x), pointer(weight), pointer(out), num_rows, n,
         static_cast<float>(eps));
  return out;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("rms_norm", TORCH_BOX(&v4npu::ascend::launch_rms_norm)); }
