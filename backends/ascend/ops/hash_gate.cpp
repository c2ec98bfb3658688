#include "v4npu/ops/hash_gate.h"

#include "../launch.h"

namespace v4npu::ascend {

std::tuple<Tensor, Tensor> launch_hash_gate(const Tensor& x_, const Tensor& weight_, const Tensor& tid2eid_,
                                            const Tensor& input_ids_, double route_scale) {
  check_hash_gate(x_, weight_, tid2eid_, input_ids_, route_scale);
  const std::string of_x = suffix(x_), of_weight = suffix(weight_);
  const int64_t topk = tid2eid_.size(1);
  const bool fits = topk <= 16 && x_.size(1) > 0;  // hash_gate_kernel.asc: limits
  const bool known =
      (of_x == of_weight && (of_x == "fp32" || of_x == "bf16")) || (of_x == "bf16" && of_weight == "fp32");
  if (!ready() || !fits || !known)
    return call_reference<Tensor, Tensor>("hash_gate", x_, weight_, tid2eid_, input_ids_, route_scale);

  const Tensor x = dense(x_), weight = dense(weight_), tid2eid = dense(tid2eid_), input_ids = dense(input_ids_);
  const int64_t num_tokens = x.size(0);
  Tensor indices = uninitialised(x, {num_tokens, topk}, ScalarType::Int);
  Tensor weights = uninitialised(x, {num_tokens, topk}, ScalarType::Float);
  launch("hash_gate_" + of_x + (of_x == of_weight ? "" : "_fp32"), num_tokens, x, pointer(x), pointer(weight),
         pointer(tid2eid), pointer(input_ids), pointer(indices), pointer(weights), num_tokens, x.size(1),
         weight.size(0), tid2eid.size(0), topk, static_cast<float>(route_scale));
  return {indices, weights};
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("hash_gate", TORCH_BOX(&v4npu::ascend::launch_hash_gate)); }
