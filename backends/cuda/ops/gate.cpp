#include "v4npu/ops/gate.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor> launch_gate(const Tensor& x, const Tensor& weight, const OptTensor& bias, int64_t topk,
                                       double route_scale) {
  check_gate(x, weight, bias, topk, route_scale);
  if (!runs(x) || !native(weight) || !is_float32(bias) || weight.size(0) > kMaxExperts ||
      x.size(1) > kMaxPieces * kColumns)
    return call_reference<Tensor, Tensor>("gate", x, weight, bias, topk, route_scale);

  const GateCall call(x, weight, bias, topk, route_scale);
  const GateParams& p = call.p;
  const Products logits{p.x, p.weight, p.scores, p.num_tokens, p.num_experts, p.hidden_size, 0, false};
  run_products("gate", kernel_name("gate_products", p.dtype, p.weight_dtype), logits, x);
  run("gate", "gate_choose", p, {ceil_div(p.num_tokens, kRowWarps)}, kRowThreads, x, kRowWarps * p.num_experts * 4);
  return {call.indices, call.weights};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("gate", TORCH_BOX(&v4npu::cuda::launch_gate)); }
