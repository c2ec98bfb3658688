#include "v4npu/ops/compressor.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(compressor, CompressorParams)

Tensor launch_compressor(const Tensor& kv, const Tensor& score, const Tensor& ape, const Tensor& weight,
                         const Tensor& freqs, const Tensor& cu_seqlens_q, const Tensor& start_pos,
                         const OptTensor& state, const OptTensor& state_slots, int64_t ratio, bool overlap, double eps,
                         const std::string& quant, int64_t num_entries, ScalarType out_dtype, const OptTensor& cache,
                         const OptTensor& slots) {
  check_compressor(kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, state, state_slots, ratio, overlap, eps,
                   quant, num_entries, out_dtype, cache, slots);
  if (!CompressorCall::takes(kv, score, ape, weight, state, out_dtype, cache)) {
    return call_reference<Tensor>("compressor", kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, state,
                                  state_slots, ratio, overlap, eps, quant, num_entries, out_dtype, cache, slots);
  }
  const CompressorCall call(kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, state, state_slots, ratio, overlap,
                            eps, quant, num_entries, out_dtype, cache, slots);
  run_kernel(call.p);
  return call.entries;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("compressor", TORCH_BOX(&v4npu::cpu::launch_compressor)); }
