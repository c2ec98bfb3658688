#include "v4npu/ops/hash_gate.h"

#include "../launch.h"
#include "ops/check.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(hash_gate, HashGateParams)

// The values that the kernel will follow; here they can be read without waiting for a device.
void check_ids(const HashGateParams& p) {
  const Check check("hash_gate");
  for (int64_t t = 0; t < p.num_tokens; ++t) {
    const int64_t id = p.input_ids[t];
    check.require(id >= 0 && id < p.vocab_size, "input_ids", "within the rows of tid2eid", id);
    for (int64_t i = 0; i < p.topk; ++i) {
      const int64_t expert = p.tid2eid[id * p.topk + i];
      check.require(expert >= 0 && expert < p.num_experts, "tid2eid", "within the experts", expert);
    }
  }
}

std::tuple<Tensor, Tensor> launch_hash_gate(const Tensor& x_, const Tensor& weight_, const Tensor& tid2eid_,
                                            const Tensor& input_ids_, double route_scale) {
  check_hash_gate(x_, weight_, tid2eid_, input_ids_, route_scale);
  if (!native(x_) || !native(weight_))
    return call_reference<Tensor, Tensor>("hash_gate", x_, weight_, tid2eid_, input_ids_, route_scale);

  const Tensor x = dense(x_), weight = dense(weight_), tid2eid = dense(tid2eid_), input_ids = dense(input_ids_);
  HashGateParams p{};
  p.num_tokens = x.size(0);
  p.hidden_size = x.size(1);
  p.num_experts = weight.size(0);
  p.vocab_size = tid2eid.size(0);
  p.topk = tid2eid.size(1);
  p.tid2eid = pointer<int64_t>(tid2eid);
  p.input_ids = pointer<int64_t>(input_ids);
  check_ids(p);
  Tensor indices = torch::stable::new_empty(x, {p.num_tokens, p.topk}, ScalarType::Int);
  Tensor weights = torch::stable::new_empty(x, {p.num_tokens, p.topk}, ScalarType::Float);
  p.x = pointer<void>(x);
  p.weight = pointer<void>(weight);
  p.topk_indices = static_cast<int32_t*>(indices.mutable_data_ptr());
  p.topk_weights = static_cast<float*>(weights.mutable_data_ptr());
  p.route_scale = static_cast<float>(route_scale);
  p.dtype = dtype_of(x);
  p.weight_dtype = dtype_of(weight);
  run_kernel(p);
  return {indices, weights};
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("hash_gate", TORCH_BOX(&v4npu::cpu::launch_hash_gate)); }
