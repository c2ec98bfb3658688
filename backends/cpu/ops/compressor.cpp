#include "v4npu/ops/compressor.h"

#include "../paged/launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(compressor, CompressorParams)

Tensor launch_compressor(const Tensor& kv_, const Tensor& score_, const Tensor& ape_, const Tensor& weight_,
                         const Tensor& freqs_, const Tensor& cu_seqlens_q, const Tensor& start_pos,
                         const OptTensor& state, const OptTensor& state_slots_, int64_t ratio, bool overlap, double eps,
                         const std::string& quant, int64_t num_entries, ScalarType out_dtype, const OptTensor& cache,
                         const OptTensor& slots_) {
  check_compressor(kv_, score_, ape_, weight_, freqs_, cu_seqlens_q, start_pos, state, state_slots_, ratio, overlap,
                   eps, quant, num_entries, out_dtype, cache, slots_);
  if (!is_float32(kv_) || !is_float32(score_) || !is_float32(ape_) || !is_float32(state) || !native(out_dtype) ||
      !native(weight_) || !storable(cache, out_dtype)) {
    return call_reference<Tensor>("compressor", kv_, score_, ape_, weight_, freqs_, cu_seqlens_q, start_pos, state,
                                  state_slots_, ratio, overlap, eps, quant, num_entries, out_dtype, cache, slots_);
  }
  const Sequences seqs(cu_seqlens_q, start_pos, kv_.size(0));
  const Tensor kv = dense(kv_), score = dense(score_), ape = dense(ape_), weight = dense(weight_);
  const Tensor freqs = dense(freqs_);
  const OptTensor slots = dense(slots_), state_slots = dense(state_slots_);
  CompressorParams p{};
  p.ratio = ratio;
  p.overlap = overlap;
  check_compressor_state(seqs, p, num_entries, state, state_slots);
  check_slots(slots, cache);
  Tensor entries = torch::stable::new_empty(kv, {num_entries, weight.size(0)}, out_dtype);
  p.kv = pointer<void>(kv);
  p.score = pointer<void>(score);
  p.ape = pointer<void>(ape);
  p.norm_weight = pointer<void>(weight);
  p.freqs = pointer<float>(freqs);
  p.cu_seqlens_q = seqs.end;
  p.start_pos = seqs.start;
  if (state) p.state = state->mutable_data_ptr(), p.ring = state->size(2), p.state_stride = state->stride(0);
  p.state_slots = pointer<int32_t>(state_slots);
  p.entries = entries.mutable_data_ptr();
  if (cache) p.cache = cache->mutable_data_ptr();
  set_cache(p, cache, slots);
  p.num_tokens = kv.size(0);
  p.num_seqs = seqs.count;
  p.num_entries = num_entries;
  p.head_dim = weight.size(0);
  p.rope_dim = 2 * freqs.size(0);
  p.eps = static_cast<float>(eps);
  using Quant = CompressorParams::Quant;
  p.quant = quant == "none" ? Quant::kNone : quant == "fp8" ? Quant::kFp8 : Quant::kHadamardFp4;
  p.dtype = out_dtype == ScalarType::Float ? Dtype::kFloat32 : Dtype::kBfloat16;
  p.weight_dtype = dtype_of(weight);
  run_kernel(p);
  return entries;
}
}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("compressor", TORCH_BOX(&v4npu::cpu::launch_compressor)); }
