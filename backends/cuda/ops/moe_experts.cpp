#include "../moe_launch.h"

namespace v4npu::cuda {

Tensor launch_moe_experts(const Tensor& x_, const Tensor& topk_indices_, const Tensor& topk_weights_, const Tensor& w1,
                          const OptTensor& s1, const Tensor& w3, const OptTensor& s3, const Tensor& w2,
                          const OptTensor& s2, double swiglu_limit, bool official, const OptTensor& shared) {
  check_moe_experts(x_, topk_indices_, topk_weights_, w1, s1, w3, s3, w2, s2, swiglu_limit, official, shared);
  const ScalarType type = w1.scalar_type();
  const bool plain = !s1, rounds_weight = type == ScalarType::Float && !is_float32(x_);
  if (!runs(x_) || !is_float32(topk_weights_) || (plain && !native(type)) || rounds_weight ||
      w3.scalar_type() != type || w2.scalar_type() != type || topk_indices_.size(1) > kMaxTopk) {
    return call_reference<Tensor>("moe_experts", x_, topk_indices_, topk_weights_, w1, s1, w3, s3, w2, s2, swiglu_limit,
                                  official, shared);
  }
  const char* format = type == ScalarType::BFloat16 ? "bf16"
                       : type == ScalarType::Float  ? "fp32"
                       : type == ScalarType::Char   ? "fp4"
                                                    : "fp8";
  ExpertCall call{dense(x_),
                  dense(topk_indices_),
                  dense(topk_weights_),
                  Matrices(w1),
                  Matrices(w3),
                  Matrices(w2),
                  dense(s1),
                  dense(s3),
                  dense(s2),
                  dense(shared),
                  format,
                  swiglu_limit,
                  official && !plain};
  if (call.w1.rows_apart != call.w3.rows_apart) {
    call.w1 = Matrices(dense(w1));
    call.w3 = Matrices(dense(w3));
  }
  return run_experts(call);
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("moe_experts", TORCH_BOX(&v4npu::cuda::launch_moe_experts)); }
