#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_hash_gate(const Tensor& x, const Tensor& weight, const Tensor& tid2eid, const Tensor& input_ids,
                     double /*route_scale*/) {
  Check check("hash_gate");
  Axis num_tokens("num_tokens"), d("hidden_size"), num_experts("num_experts"), vocab("vocab_size"), topk("topk");
  check.tensor("x", x, kFloating, num_tokens, d);
  check.tensor("weight", weight, kFloating, num_experts, d);
  check.tensor("tid2eid", tid2eid, kInt64, vocab, topk);
  check.require(*topk > 0 && *topk <= *num_experts, "tid2eid", "[vocab_size, topk] with topk between 1 and num_experts",
                tid2eid);
  check.tensor("input_ids", input_ids, kInt64, num_tokens);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("hash_gate", TORCH_BOX(&v4npu::check_hash_gate));
}
