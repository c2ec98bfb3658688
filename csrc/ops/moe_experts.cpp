#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_moe_experts(const Tensor& x, const Tensor& topk_indices, const Tensor& topk_weights, const Tensor& w1,
                       const OptTensor& w1_scale, const Tensor& w3, const OptTensor& w3_scale, const Tensor& w2,
                       const OptTensor& w2_scale, double swiglu_limit, bool /*official*/, const OptTensor& shared) {
  Check check("moe_experts");
  Axis num_tokens("num_tokens"), d("hidden_size"), topk("topk"), num_experts("num_experts"), width("intermediate_size");
  check.tensor("x", x, kFloating, num_tokens, d);
  check.tensor("topk_indices", topk_indices, kInt32, num_tokens, topk);
  constexpr int64_t kMost = 2147483647;  // kernels count in int32
  check.require(*num_tokens == 0 || *topk <= kMost / *num_tokens, "topk_indices", "at most 2147483647 choices",
                topk_indices);
  check.tensor("topk_weights", topk_weights, kFloat32, num_tokens, topk);
  check_weight(check, {"w1", "w1_scale", w1, w1_scale}, &num_experts, width, d, /*fp4=*/true);
  check_weight(check, {"w3", "w3_scale", w3, w3_scale}, &num_experts, width, d, /*fp4=*/true);
  check_weight(check, {"w2", "w2_scale", w2, w2_scale}, &num_experts, d, width, /*fp4=*/true);
  check.clamp("swiglu_limit", swiglu_limit);
  check.tensor("shared", shared, kFloating, num_tokens, d);
  if (shared) check.require(shared->scalar_type() == x.scalar_type(), "shared", "of the dtype of x", *shared);
  if (!check.reads_values()) return;
  const Values<int32_t> chosen(topk_indices);
  for (int64_t t = 0; t < *num_tokens; ++t) {
    for (int64_t i = 0; i < chosen.count; ++i) {
      const int32_t e = chosen.at(t, i);
      if (e < 0 || e >= *num_experts)
        check.fail("topk_indices", "in 0 .. " + std::to_string(*num_experts - 1), std::to_string(e));
    }
  }
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("moe_experts", TORCH_BOX(&v4npu::check_moe_experts));
}
