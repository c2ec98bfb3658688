#include "v4npu/ops/gate.h"

#include "../launch.h"

namespace v4npu::ascend {

std::tuple<Tensor, Tensor> launch_gate(const Tensor& x_, const Tensor& weight_, const OptTensor& bias_, int64_t topk,
                                       double route_scale) {
  check_gate(x_, weight_, bias_, topk, route_scale);
  const std::string of_x = suffix(x_), of_weight = suffix(weight_);
  const bool fits = weight_.size(0) <= 512 && topk <= 16 && x_.size(1) > 0;  // gate_kernel.asc: limits
  const bool known =
      (of_x == of_weight && (of_x == "fp32" || of_x == "bf16")) || (of_x == "bf16" && of_weight == "fp32");
  if (!ready() || !fits || !known || (bias_ && suffix(*bias_) != "fp32"))
    return call_reference<Tensor, Tensor>("gate", x_, weight_, bias_, topk, route_scale);

  const Tensor x = dense(x_), weight = dense(weight_);
  const OptTensor bias = dense(bias_);
  const int64_t num_tokens = x.size(0);
  Tensor indices = uninitialised(x, {num_tokens, topk}, ScalarType::Int);
  Tensor weights = uninitialised(x, {num_tokens, topk}, ScalarType::Float);
  launch("gate_" + of_x + (of_x == of_weight ? "" : "_fp32"), num_tokens, x, pointer(x), pointer(weight), pointer(bias),
         pointer(indices), pointer(weights), num_tokens, x.size(1), weight.size(0), topk,
         static_cast<float>(route_scale));
  return {indices, weights};
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("gate", TORCH_BOX(&v4npu::ascend::launch_gate)); }
