#include "v4npu/ops/hash_gate.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor> launch_hash_gate(const Tensor& x, const Tensor& weight, const Tensor& tid2eid,
                                            const Tensor& input_ids, double route_scale) {
  check_hash_gate(x, weight, tid2eid, input_ids, route_scale);
  if (!runs(x) || !native(weight) || x.size(1) > kMaxPieces * kColumns || tid2eid.size(1) > kMaxTopk)
    return call_reference<Tensor, Tensor>("hash_gate", x, weight, tid2eid, input_ids, route_scale);

  const HashGateCall call(x, weight, tid2eid, input_ids, route_scale);
  const HashGateParams& p = call.p;
  const int64_t floats = p.topk * (ceil_div(p.hidden_size, kColumns) + 1);
  run("hash_gate", kernel_name("hash_gate", p.dtype, p.weight_dtype), p, {p.num_tokens}, kRowThreads, x, 4 * floats);
  return {call.indices, call.weights};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hash_gate", TORCH_BOX(&v4npu::cuda::launch_hash_gate)); }
