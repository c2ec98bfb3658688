#include "../attention_launch.h"

namespace v4npu::cuda {

Tensor launch_hca_attention(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                            const Tensor& compressed_kv, const Tensor& block_table, const Tensor& cu_seqlens_q,
                            const Tensor& start_pos, const OptTensor& sink, double scale, int64_t window, int64_t ratio,
                            int64_t rope_dim, bool official, const OptTensor& positions, const OptTensor& freqs) {
  check_hca_attention(q, window_kv, window_table, compressed_kv, block_table, cu_seqlens_q, start_pos, sink, scale,
                      window, ratio, rope_dim, official, positions, freqs);
  if (!AttentionCall::takes(q, window_kv, sink, rope_dim, freqs) ||
      compressed_kv.scalar_type() != window_kv.scalar_type() || !is_even(compressed_kv)) {
    return call_reference<Tensor>("hca_attention", q, window_kv, window_table, compressed_kv, block_table, cu_seqlens_q,
                                  start_pos, sink, scale, window, ratio, rope_dim, official, positions, freqs);
  }
  AttentionCall call(q, window_kv, window_table, cu_seqlens_q, start_pos, sink, scale, window, rope_dim, official,
                     positions, freqs);
  const Tensor table = dense(block_table);
  call.entries(compressed_kv, table);
  call.p.ratio = ratio;
  return call.run("hca_attention");
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("hca_attention", TORCH_BOX(&v4npu::cuda::launch_hca_attention)); }
