#include "v4npu/ops/hash_gate.h"

#include "../launch.h"
#include "ops/calls.h"

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

void checked(const HashGateParams& p) {
  check_ids(p);
  kernel(p);
}

std::tuple<Tensor, Tensor> launch_hash_gate(const Tensor& x, const Tensor& weight, const Tensor& tid2eid,
                                            const Tensor& input_ids, double route_scale) {
  check_hash_gate(x, weight, tid2eid, input_ids, route_scale);
  if (!native(x) || !native(weight))
    return call_reference<Tensor, Tensor>("hash_gate", x, weight, tid2eid, input_ids, route_scale);

  const HashGateCall call(x, weight, tid2eid, input_ids, route_scale);
  launch(&checked, call.p);
  return {call.indices, call.weights};
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("hash_gate", TORCH_BOX(&v4npu::cpu::launch_hash_gate)); }
