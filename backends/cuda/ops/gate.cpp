#include "v4npu/ops/gate.h"

#include "../launch.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor> launch_gate(const Tensor& x_, const Tensor& weight_, const OptTensor& bias_, int64_t topk,
                                       double route_scale) {
  check_gate(x_, weight_, bias_, topk, route_scale);
  if (!runs(x_) || !native(weight_) || !is_float32(bias_) || weight_.size(0) > kMaxExperts ||
      x_.size(1) > kMaxPieces * kColumns)
    return call_reference<Tensor, Tensor>("gate", x_, weight_, bias_, topk, route_scale);

  const Tensor x = dense(x_), weight = dense(weight_);
  const OptTensor bias = dense(bias_);
  GateParams p{};
  p.num_tokens = x.size(0);
  p.hidden_size = x.size(1);
  p.num_experts = weight.size(0);
  p.topk = topk;
  Tensor indices = torch::stable::new_empty(x, {p.num_tokens, topk}, ScalarType::Int);
  Tensor weights = torch::stable::new_empty(x, {p.num_tokens, topk}, ScalarType::Float);
  Tensor scores = torch::stable::new_empty(x, {p.num_tokens, p.num_experts}, ScalarType::Float);
  p.x = pointer<void>(x);
  p.weight = pointer<void>(weight);
  p.bias = pointer<float>(bias);
  p.topk_indices = static_cast<int32_t*>(indices.mutable_data_ptr());
  p.topk_weights = static_cast<float*>(weights.mutable_data_ptr());
  p.scores = static_cast<float*>(scores.mutable_data_ptr());
  p.route_scale = static_cast<float>(route_scale);
  p.dtype = dtype_of(x);
  p.weight_dtype = dtype_of(weight);
  const Products logits{p.x, p.weight, p.scores, p.num_tokens, p.num_experts, p.hidden_size, 0, false};
  run_products("gate", kernel_name("gate_products", p.dtype, p.weight_dtype), logits, x);
  run("gate", "gate_choose", p, {ceil_of(p.num_tokens, kRowWarps)}, kRowThreads, x, kRowWarps * p.num_experts * 4);
  return {indices, weights};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("gate", TORCH_BOX(&v4npu::cuda::launch_gate)); }
