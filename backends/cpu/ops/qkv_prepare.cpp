#include "v4npu/ops/qkv_prepare.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(qkv_prepare, QkvPrepareParams)

std::tuple<Tensor, Tensor> launch_qkv_prepare(const Tensor& q, const Tensor& kv, const Tensor& weight,
                                              const Tensor& positions, const Tensor& freqs, double eps, bool official,
                                              const OptTensor& cache, const OptTensor& slots) {
  check_qkv_prepare(q, kv, weight, positions, freqs, eps, official, cache, slots);
  if (!QkvPrepareCall::takes(q, kv, weight, cache)) {
    return call_reference<Tensor, Tensor>("qkv_prepare", q, kv, weight, positions, freqs, eps, official, cache, slots);
  }
  const QkvPrepareCall call(q, kv, weight, positions, freqs, eps, official, cache, slots);
  run_kernel(call.p);
  return {call.q_out, call.kv_out};
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("qkv_prepare", TORCH_BOX(&v4npu::cpu::launch_qkv_prepare)); }
