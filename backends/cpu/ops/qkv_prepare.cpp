#include "v4npu/ops/qkv_prepare.h"

#include "../paged/launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(qkv_prepare, QkvPrepareParams)

std::tuple<Tensor, Tensor> launch_qkv_prepare(const Tensor& q_, const Tensor& kv_, const Tensor& weight_,
                                              const Tensor& positions_, const Tensor& freqs_, double eps, bool official,
                                              const OptTensor& cache, const OptTensor& slots_) {
  check_qkv_prepare(q_, kv_, weight_, positions_, freqs_, eps, official, cache, slots_);
  const ScalarType type = q_.scalar_type();
  if (!native(q_) || kv_.scalar_type() != type || !native(weight_) || !storable(cache, type)) {
    return call_reference<Tensor, Tensor>("qkv_prepare", q_, kv_, weight_, positions_, freqs_, eps, official, cache,
                                          slots_);
  }
  const Tensor q = dense(q_), kv = dense(kv_), weight = dense(weight_), positions = dense(positions_);
  const Tensor freqs = dense(freqs_);
  const OptTensor slots = dense(slots_);
  check_slots(slots, cache);
  Tensor q_out = torch::stable::empty_like(q), kv_out = torch::stable::empty_like(kv);
  QkvPrepareParams p{};
  p.q = pointer<void>(q);
  p.kv = pointer<void>(kv);
  p.kv_norm_weight = pointer<void>(weight);
  p.positions = pointer<int64_t>(positions);
  p.freqs = pointer<float>(freqs);
  p.q_out = q_out.mutable_data_ptr();
  p.kv_out = kv_out.mutable_data_ptr();
  if (cache) p.window_cache = cache->mutable_data_ptr();
  set_cache(p, cache, slots);
  p.num_tokens = q.size(0);
  p.num_heads = q.size(1);
  p.head_dim = q.size(2);
  p.rope_dim = 2 * freqs.size(0);
  p.eps = static_cast<float>(eps);
  p.official = official;
  p.dtype = dtype_of(q);
  p.weight_dtype = dtype_of(weight);
  run_kernel(p);
  return {q_out, kv_out};
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("qkv_prepare", TORCH_BOX(&v4npu::cpu::launch_qkv_prepare)); }
