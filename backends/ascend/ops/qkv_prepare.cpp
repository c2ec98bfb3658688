#include "v4npu/ops/qkv_prepare.h"

#include "../steps.h"
#include "../stored_rows.h"
#include "ops/calls.h"

namespace v4npu::ascend {
namespace {

// Step 1.
Tensor head_norm(const Tensor& q_, double eps, bool official) {
  const int64_t n = q_.size(2), num_rows = q_.size(0) * q_.size(1);
  const std::string kernel = suffix(q_) == "bf16" && official ? "rms_norm_official_bf16" : "rms_norm_" + suffix(q_);
  const Tensor q = dense(q_);
  Tensor out = uninitialised_like(q);
  void* const no_weight = nullptr;
  launch(kernel, num_rows, q, pointer(q), no_weight, pointer(out), num_rows, n, static_cast<float>(eps));
  return out;
}

}  // namespace

std::tuple<Tensor, Tensor> launch_qkv_prepare(const Tensor& q, const Tensor& kv_, const Tensor& weight,
                                              const Tensor& positions, const Tensor& freqs, double eps, bool official,
                                              const OptTensor& cache, const OptTensor& slots) {
  check_qkv_prepare(q, kv_, weight, positions, freqs, eps, official, cache, slots);
  const int64_t head_dim = q.size(2), rope_dim = 2 * freqs.size(0), keep = head_dim - rope_dim;
  const bool fits = rope_dim > 0 && rope_dim <= 2048 && head_dim <= 2048 && (!official || keep % 64 == 0);
  if (!ready() || !fits || !QkvPrepareCall::takes(q, kv_, weight, cache) ||
      (weight.scalar_type() != q.scalar_type() && !is_float32(weight)))
    return call_reference<Tensor, Tensor>("qkv_prepare", q, kv_, weight, positions, freqs, eps, official, cache, slots);

  StoredRows kv(launch_rope(launch_rms_norm(kv_, weight, eps), positions, freqs, false));
  if (official) kv.round_kv(keep);
  kv.store(cache, slots);
  return {launch_rope(head_norm(q, eps, official), positions, freqs, false), kv.rows};
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("qkv_prepare", TORCH_BOX(&v4npu::ascend::launch_qkv_prepare));
}
