#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_hc_post(const Tensor& x, const Tensor& streams, const Tensor& post, const Tensor& comb) {
  Check check("hc_post");
  Axis num_tokens("num_tokens"), m("hc_mult"), d("hidden_size");
  check.tensor("x", x, kFloating, num_tokens, d);
  check.tensor("streams", streams, kFloating, num_tokens, m, d);
  check.tensor("post", post, kFloat32, num_tokens, m);
  check.tensor("comb", comb, kFloat32, num_tokens, m, m);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("hc_post", TORCH_BOX(&v4npu::check_hc_post));
}
