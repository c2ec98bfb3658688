#include "v4npu/ops/compressor.h"

#include "../steps.h"
#include "../stored_rows.h"
#include "ops/calls.h"

namespace v4npu::ascend {
namespace {

// compressor_kernel.asc and the kernels of its steps: limits.
bool fits(int64_t dim, int64_t rope_dim, int64_t rows, const std::string& quant) {
  const bool known = quant == "fp8"            ? (dim - rope_dim) % 64 == 0
                     : quant == "hadamard_fp8" ? dim >= 32 && dim <= 128
                                               : quant == "none" || dim >= 32;
  return known && dim <= 2048 && rope_dim > 0 && rows <= 512;
}

}  // namespace

Tensor launch_compressor(const Tensor& kv, const Tensor& score, const Tensor& ape, const Tensor& weight,
                         const Tensor& freqs, const Tensor& cu_seqlens_q, const Tensor& start_pos,
                         const OptTensor& state, const OptTensor& state_slots, int64_t ratio, bool overlap, double eps,
                         const std::string& quant, int64_t num_entries, ScalarType out_dtype, const OptTensor& cache,
                         const OptTensor& slots) {
  check_compressor(kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, state, state_slots, ratio, overlap, eps,
                   quant, num_entries, out_dtype, cache, slots);
  const bool takes = ready() && CompressorCall::takes(kv, score, ape, weight, state, out_dtype, cache) &&
                     (weight.scalar_type() == out_dtype || is_float32(weight));
  if (!takes || !fits(weight.size(0), 2 * freqs.size(0), overlap ? 2 * ratio : ratio, quant)) {
    return call_reference<Tensor>("compressor", kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, state,
                                  state_slots, ratio, overlap, eps, quant, num_entries, out_dtype, cache, slots);
  }
  const CompressorCall call(kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, state, state_slots, ratio, overlap,
                            eps, quant, num_entries, out_dtype, cache, slots);
  const CompressorParams& p = call.p;
  const int64_t halves = overlap ? 2 : 1, num_states = state ? state->size(0) : 0;
  const int64_t channels = 4096 / (halves * ratio) / 8 * 8;  // compressor_kernel.asc: of an entry at a time
  const Tensor positions = uninitialised(kv, {num_entries}, ScalarType::Long);
  launch("compressor_pool_" + suffix(call.entries), num_entries * ceil_div(p.head_dim, channels), kv, p.kv, p.score,
         p.ape, p.cu_seqlens_q, p.start_pos, p.state, p.state_slots, p.entries, pointer(positions), p.num_tokens,
         p.num_seqs, num_entries, p.head_dim, ratio, halves, p.ring, num_states, p.state_stride);
  if (state) {
    launch("compressor_state", p.num_tokens, kv, p.kv, p.score, p.ape, p.cu_seqlens_q, p.start_pos, p.state,
           p.state_slots, p.num_tokens, p.num_seqs, p.head_dim, ratio, halves, p.ring, num_states, p.state_stride);
  }
  StoredRows entries(launch_rope(launch_rms_norm(call.entries, weight, eps), positions, freqs, false));
  if (quant == "fp8") entries.round_kv(p.head_dim - p.rope_dim);
  if (quant.starts_with("hadamard")) entries.round_keys(quant == "hadamard_fp4", p.packed);
  entries.store(cache, slots);
  return entries.rows;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("compressor", TORCH_BOX(&v4npu::ascend::launch_compressor)); }
