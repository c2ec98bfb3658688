#include "v4npu/ops/hash_gate.h"

#include "../launch.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor> launch_hash_gate(const Tensor& x_, const Tensor& weight_, const Tensor& tid2eid_,
                                            const Tensor& input_ids_, double route_scale) {
  check_hash_gate(x_, weight_, tid2eid_, input_ids_, route_scale);
  if (!runs(x_) || !native(weight_) || x_.size(1) > kMaxPieces * kColumns)
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
  Tensor indices = torch::stable::new_empty(x, {p.num_tokens, p.topk}, ScalarType::Int);
  Tensor weights = torch::stable::new_empty(x, {p.num_tokens, p.topk}, ScalarType::Float);
  p.x = pointer<void>(x);
  p.weight = pointer<void>(weight);
  p.topk_indices = static_cast<int32_t*>(indices.mutable_data_ptr());
  p.topk_weights = static_cast<float*>(weights.mutable_data_ptr());
  p.route_scale = static_cast<float>(route_scale);
  p.dtype = dtype_of(x);
  p.weight_dtype = dtype_of(weight);
  const int64_t floats = p.topk * (ceil_of(p.hidden_size, kColumns) + 1);
  run("hash_gate", kernel_name("hash_gate", p.dtype, p.weight_dtype), p, {p.num_tokens}, kRowThreads, x, 4 * floats);
  return {indices, weights};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hash_gate", TORCH_BOX(&v4npu::cuda::launch_hash_gate)); }
