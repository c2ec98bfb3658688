#include "v4npu/ops/compressor.h"

#include <algorithm>

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

Tensor launch_compressor(const Tensor& kv, const Tensor& score, const Tensor& ape, const Tensor& weight,
                         const Tensor& freqs, const Tensor& cu_seqlens_q, const Tensor& start_pos,
                         const OptTensor& state, const OptTensor& state_slots, int64_t ratio, bool overlap, double eps,
                         const std::string& quant, int64_t num_entries, ScalarType out_dtype, const OptTensor& cache,
                         const OptTensor& slots) {
  check_compressor(kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, state, state_slots, ratio, overlap, eps,
                   quant, num_entries, out_dtype, cache, slots);
  if (!CompressorCall::takes(kv, score, ape, weight, state, out_dtype, cache) || !runs(kv) || !is_row(weight.size(0)) ||
      !is_even(cache) || (quant.starts_with("hadamard") && (weight.size(0) < 32 || weight.size(0) > kMaxIndexHead))) {
    return call_reference<Tensor>("compressor", kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, state,
                                  state_slots, ratio, overlap, eps, quant, num_entries, out_dtype, cache, slots);
  }
  const CompressorCall call(kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, state, state_slots, ratio, overlap,
                            eps, quant, num_entries, out_dtype, cache, slots);
  const CompressorParams& p = call.p;
  const int64_t rows = p.state != nullptr ? std::min(p.ring, p.num_tokens) : 0;
  run("compressor", kernel_name("compressor_entries", p.dtype, p.weight_dtype), p, {p.num_entries}, kRowThreads, kv);
  run("compressor", "compressor_states", p, {p.num_seqs * rows}, kRowThreads, kv);
  return call.entries;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("compressor", TORCH_BOX(&v4npu::cuda::launch_compressor)); }
