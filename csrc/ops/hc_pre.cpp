#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_hc_pre(const Tensor& streams, const Tensor& fn, const Tensor& scale, const Tensor& base, double norm_eps,
                  double hc_eps, int64_t sinkhorn_iters) {
  Check check("hc_pre");
  Axis num_tokens("num_tokens"), m("hc_mult"), d("hidden_size");
  check.tensor("streams", streams, kFloating, num_tokens, m, d);
  Axis mixes("(2+hc_mult)*hc_mult", (2 + *m) * *m), md("hc_mult*hidden_size", *m * *d), three("3", 3);
  check.tensor("fn", fn, kFloat32, mixes, md);
  check.tensor("scale", scale, kFloat32, three);
  check.tensor("base", base, kFloat32, mixes);
  check.require(norm_eps >= 0, "norm_eps", "at least 0", norm_eps);
  check.require(hc_eps >= 0, "hc_eps", "at least 0", hc_eps);
  check.positive("sinkhorn_iters", sinkhorn_iters);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("hc_pre", TORCH_BOX(&v4npu::check_hc_pre));
}
