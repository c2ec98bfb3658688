#include "v4npu/ops/hca_attention.h"

#include "../paged/launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(hca_attention, HcaAttentionParams)

Tensor launch_hca_attention(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                            const Tensor& compressed_kv, const Tensor& block_table, const Tensor& cu_seqlens_q,
                            const Tensor& start_pos, const OptTensor& sink, double scale, int64_t window, int64_t ratio,
                            int64_t rope_dim, bool official, const OptTensor& positions, const OptTensor& freqs) {
  check_hca_attention(q, window_kv, window_table, compressed_kv, block_table, cu_seqlens_q, start_pos, sink, scale,
                      window, ratio, rope_dim, official, positions, freqs);
  if (!AttentionCall<HcaAttentionParams>::takes(q, window_kv, sink) ||
      compressed_kv.scalar_type() != window_kv.scalar_type()) {
    return call_reference<Tensor>("hca_attention", q, window_kv, window_table, compressed_kv, block_table, cu_seqlens_q,
                                  start_pos, sink, scale, window, ratio, rope_dim, official, positions, freqs);
  }
  AttentionCall<HcaAttentionParams> call(q, window_kv, window_table, cu_seqlens_q, start_pos, sink, scale, window,
                                         rope_dim, official, positions, freqs);
  const Pages entries(compressed_kv, block_table);
  call.entries(entries);
  call.p.ratio = ratio;
  run_kernel(call.p);
  return call.out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("hca_attention", TORCH_BOX(&v4npu::cpu::launch_hca_attention)); }
