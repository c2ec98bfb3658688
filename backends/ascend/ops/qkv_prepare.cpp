#include "v4npu/ops/qkv_prepare.h"

#include "../steps.h"
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
                                              const OptTensor& cache, const OptTensor& slots_) {
  check_qkv_prepare(q, kv_, weight, positions, freqs, eps, official, cache, slots_);
  const int64_t num_tokens = q.size(0), head_dim = q.size(2), rope_dim = 2 * freqs.size(0), keep = head_dim - rope_dim;
  const bool fits = rope_dim > 0 && rope_dim <= 2048 && head_dim <= 2048 && (!official || keep % 64 == 0);
  if (!ready() || !fits || !QkvPrepareCall::takes(q, kv_, weight, cache) ||
      (weight.scalar_type() != q.scalar_type() && !is_float32(weight)))
    return call_reference<Tensor, Tensor>("qkv_prepare", q, kv_, weight, positions, freqs, eps, official, cache,
                                          slots_);

  const Tensor kv = launch_rope(launch_rms_norm(kv_, weight, eps), positions, freqs, false);
  OptTensor codes, scales;
  if (official && keep > 0) {
    std::tie(codes, scales) = launch_act_quant(kv, 64);
    launch("qkv_prepare_round_" + suffix(kv), ceil_div(num_tokens, 32) * ceil_div(keep, 128), kv, pointer(codes),
           pointer(scales), pointer(kv), num_tokens, head_dim, keep);
  }
  if (cache) {
    const Tensor slots = dense(*slots_);
    const auto width = [&](const Tensor& t) { return static_cast<int64_t>(t.element_size()); };
    const int64_t coded = cache->scalar_type() == ScalarType::Byte ? keep : 0;
    launch("qkv_prepare_store", num_tokens, kv, pointer(kv), pointer(codes), pointer(scales), pointer(slots),
           pointer(*cache), num_tokens, head_dim, coded, width(kv), cache->size(0), cache->size(1),
           cache->stride(0) * width(*cache), cache->size(1) * cache->size(2) * width(*cache));
  }
  return {launch_rope(head_norm(q, eps, official), positions, freqs, false), kv};
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) {
  m.impl("qkv_prepare", TORCH_BOX(&v4npu::ascend::launch_qkv_prepare));
}
