#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_hc_head(const Tensor& streams, const Tensor& fn, const Tensor& scale, const Tensor& base, double norm_eps,
                   double hc_eps) {
  Check check("hc_head");
  Axis num_tokens("num_tokens"), m("hc_mult"), d("hidden_size"), one("1", 1);
  check.tensor("streams", streams, kFloating, num_tokens, m, d);
  Axis md("hc_mult*hidden_size", *m * *d);
  check.tensor("fn", fn, kFloat32, m, md);
  check.tensor("scale", scale, kFloat32, one);
  check.tensor("base", base, kFloat32, m);
  check.require(norm_eps >= 0, "norm_eps", "at least 0", norm_eps);
  check.require(hc_eps >= 0, "hc_eps", "at least 0", hc_eps);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("hc_head", TORCH_BOX(&v4npu::check_hc_head));
}
