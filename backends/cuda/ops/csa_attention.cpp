#include "../attention_launch.h"

namespace v4npu::cuda {

Tensor launch_csa_attention(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                            const Tensor& compressed_kv, const Tensor& block_table, const Tensor& topk_indices,
                            const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& sink, double scale,
                            int64_t window, int64_t rope_dim, bool official, const OptTensor& positions,
                            const OptTensor& freqs) {
  check_csa_attention(q, window_kv, window_table, compressed_kv, block_table, topk_indices, cu_seqlens_q, start_pos,
                      sink, scale, window, rope_dim, official, positions, freqs);
  if (!AttentionCall::takes(q, window_kv, sink, rope_dim, freqs) ||
      compressed_kv.scalar_type() != window_kv.scalar_type() || !is_even(compressed_kv)) {
    return call_reference<Tensor>("csa_attention", q, window_kv, window_table, compressed_kv, block_table, topk_indices,
                                  cu_seqlens_q, start_pos, sink, scale, window, rope_dim, official, positions, freqs);
  }
  AttentionCall call(q, window_kv, window_table, cu_seqlens_q, start_pos, sink, scale, window, rope_dim, official,
                     positions, freqs);
  const Tensor picks = dense(topk_indices);
  call.p.topk = picks.size(1);
  call.p.topk_indices = pointer<int32_t>(picks);
  const Tensor table = dense(block_table);
  // Picks of none lie nowhere, which would ask for every entry.
  if (call.p.topk > 0) call.entries(compressed_kv, table);
  return call.run("csa_attention");
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("csa_attention", TORCH_BOX(&v4npu::cuda::launch_csa_attention)); }
