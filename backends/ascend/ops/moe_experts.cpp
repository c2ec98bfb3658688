#include "v4npu/ops/moe_experts.h"

#include "../products.h"
#include "../steps.h"
#include "ops/check.h"

namespace v4npu::ascend {
namespace {

// As bf16 rows of codes, which hold them exactly.
Tensor quantised(const Tensor& x) {
  const auto [codes, scale] = launch_act_quant(x, 128);
  return expanded(codes, scale);
}

}  // namespace

Tensor launch_moe_experts(const Tensor& x_, const Tensor& topk_indices, const Tensor& topk_weights, const Tensor& w1,
                          const OptTensor& s1, const Tensor& w3, const OptTensor& s3, const Tensor& w2,
                          const OptTensor& s2, double swiglu_limit, bool official, const OptTensor& shared_) {
  check_moe_experts(x_, topk_indices, topk_weights, w1, s1, w3, s3, w2, s2, swiglu_limit, official, shared_);
  const int64_t num_tokens = x_.size(0), hidden = x_.size(1), topk = topk_indices.size(1), num_experts = w1.size(0);
  const int64_t width = w1.size(1), num_rows = num_tokens * topk;
  const ScalarType type = x_.scalar_type();
  const bool scaled = s1 && s3 && s2, quantises = official && scaled;
  const bool plain =
      !s1 && !s3 && !s2 && w1.scalar_type() == type && w3.scalar_type() == type && w2.scalar_type() == type;
  const bool fits = num_experts > 0 && num_experts <= 1024 && topk > 0 && topk <= 64;  // moe_experts_kernel.asc: limits
  if (!(scaled || plain) || !fits || !is_float32(topk_weights) || !takes(type, type, {num_tokens, width, hidden, 1}) ||
      !takes(type, type, {num_rows, hidden, width, 1}))
    return call_reference<Tensor>("moe_experts", x_, topk_indices, topk_weights, w1, s1, w3, s3, w2, s2, swiglu_limit,
                                  official, shared_);
  Tensor out = uninitialised(x_, {num_tokens, hidden}, shared_ ? type : ScalarType::Float);
  if (num_tokens == 0) return out;
  const OptTensor shared = dense(shared_);
  const Tensor x = quantises ? quantised(x_) : dense(x_), indices = dense(topk_indices), weights = dense(topk_weights);
  const auto ints = [&](int64_t count) { return uninitialised(x, {count}, ScalarType::Int); };
  const Tensor counts = ints(blocks_of(x, Core::kVector, num_tokens) * num_experts), starts = ints(num_experts + 1);
  const Tensor places = ints(num_rows), row_weights = uninitialised(x, {num_rows}, ScalarType::Float);
  const Tensor rows = uninitialised(x, {num_rows, hidden});
  launch("moe_experts_count", num_tokens, x, pointer(indices), pointer(counts), num_tokens, topk, num_experts);
  launch("moe_experts_route_" + suffix(x), num_tokens, x, pointer(x), pointer(indices), pointer(weights),
         pointer(counts), pointer(starts), pointer(places), pointer(row_weights), pointer(rows), num_tokens, hidden,
         topk, num_experts);
  const auto first = [&](const Tensor& weight, const OptTensor& scale) {
    Tensor made = launch_expert_product(rows, starts, weight, scale, type);
    return torch::stable::narrow(made, 1, 0, width);
  };
  const Tensor gated = launch_swiglu(first(w1, s1), first(w3, s3), row_weights, swiglu_limit);
  const Tensor y = launch_expert_product(quantises ? quantised(gated) : gated, starts, w2, s2, type);
  launch("moe_experts_sum_" + suffix(y), num_tokens * ceil_div(hidden, 2048), y, pointer(y), pointer(places),
         pointer(shared), pointer(out), num_tokens, hidden, y.size(1), topk);
  return out;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("moe_experts", TORCH_BOX(&v4npu::ascend::launch_moe_experts));
}
