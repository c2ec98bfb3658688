#include "v4npu/ops/moe_experts.h"

#include "../gemm_launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(moe_experts, MoeExpertsParams)

Tensor launch_moe_experts(const Tensor& x_, const Tensor& topk_indices_, const Tensor& topk_weights_, const Tensor& w1_,
                          const OptTensor& s1_, const Tensor& w3_, const OptTensor& s3_, const Tensor& w2_,
                          const OptTensor& s2_, double swiglu_limit, bool official, const OptTensor& shared_) {
  check_moe_experts(x_, topk_indices_, topk_weights_, w1_, s1_, w3_, s3_, w2_, s2_, swiglu_limit, official, shared_);
  const Tensor x = dense(x_), indices = dense(topk_indices_), weights = dense(topk_weights_);
  const Matrices ups[2] = {Matrices(w1_), Matrices(w3_)}, down(w2_);
  const bool alike = ups[0].rows_apart == ups[1].rows_apart;
  const Tensor w1 = alike ? ups[0].stack : dense(w1_), w3 = alike ? ups[1].stack : dense(w3_), w2 = down.stack;
  const OptTensor s1 = dense(s1_), s3 = dense(s3_), s2 = dense(s2_), shared = dense(shared_);
  using Format = MoeExpertsParams::Format;
  MoeExpertsParams p{};
  p.num_tokens = x.size(0);
  p.hidden_size = x.size(1);
  p.topk = indices.size(1);
  p.num_experts = w1.size(0);
  p.intermediate_size = w1.size(1);
  p.rows_apart[0] = alike ? ups[0].rows_apart : w1.size(1);
  p.rows_apart[1] = down.rows_apart;
  p.topk_indices = pointer<int32_t>(indices);
  const ScalarType type = w1.scalar_type();
  const bool rounds_weight = type == ScalarType::Float && x.scalar_type() == ScalarType::BFloat16;
  const bool one_type = w3.scalar_type() == type && w2.scalar_type() == type;
  if (!native(x) || !is_float32(weights) || !(s1 || native(type)) || rounds_weight || !one_type)
    return call_reference<Tensor>("moe_experts", x, indices, weights, w1, s1, w3, s3, w2, s2, swiglu_limit, official,
                                  shared);
  p.x = pointer<void>(x);
  p.topk_weights = pointer<float>(weights);
  p.w1 = pointer<void>(w1);
  p.w3 = pointer<void>(w3);
  p.w2 = pointer<void>(w2);
  p.w1_scale = pointer<uint8_t>(s1);
  p.w3_scale = pointer<uint8_t>(s3);
  p.w2_scale = pointer<uint8_t>(s2);
  p.format = !s1 ? Format::kPlain : type == ScalarType::Char ? Format::kFp4 : Format::kFp8;
  p.dtype = dtype_of(x);
  p.weight_dtype = s1 ? p.dtype : dtype_of(type);
  p.swiglu_limit = static_cast<float>(swiglu_limit);
  p.official = official;
  p.num_workers = num_threads();
  plan_blocks(p, p.hidden_size > p.intermediate_size ? p.hidden_size : p.intermediate_size);
  p.shared = pointer<void>(shared);
  Tensor workspace = workspace_of(x, MoeWorkspace(p).size);
  p.workspace = workspace.mutable_data_ptr();
  Tensor out = uninitialised(x, {p.num_tokens, p.hidden_size}, shared ? x.scalar_type() : ScalarType::Float);
  p.out = out.mutable_data_ptr();
  run_kernel(p);
  return out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("moe_experts", TORCH_BOX(&v4npu::cpu::launch_moe_experts)); }
