#include "v4npu/ops/qkv_prepare.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor> launch_qkv_prepare(const Tensor& q, const Tensor& kv, const Tensor& weight,
                                              const Tensor& positions, const Tensor& freqs, double eps, bool official,
                                              const OptTensor& cache, const OptTensor& slots) {
  check_qkv_prepare(q, kv, weight, positions, freqs, eps, official, cache, slots);
  if (!QkvPrepareCall::takes(q, kv, weight, cache) || !runs(q) || !is_row(q.size(2)) || !is_even(cache)) {
    return call_reference<Tensor, Tensor>("qkv_prepare", q, kv, weight, positions, freqs, eps, official, cache, slots);
  }
  const QkvPrepareCall call(q, kv, weight, positions, freqs, eps, official, cache, slots);
  const QkvPrepareParams& p = call.p;
  const Grid grid{p.num_tokens, ceil_div(p.num_heads + 1, kRowWarps)};  // a warp to a head, and one to the KV row
  run("qkv_prepare", kernel_name("qkv_prepare", p.dtype, p.weight_dtype), p, grid, kRowThreads, q);
  return {call.q_out, call.kv_out};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("qkv_prepare", TORCH_BOX(&v4npu::cuda::launch_qkv_prepare)); }
