#include "../attention_launch.h"

namespace v4npu::cuda {

Tensor launch_window_attention(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                               const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& sink, double scale,
                               int64_t window, int64_t rope_dim, bool official, const OptTensor& positions,
                               const OptTensor& freqs) {
  check_window_attention(q, window_kv, window_table, cu_seqlens_q, start_pos, sink, scale, window, rope_dim, official,
                         positions, freqs);
  if (!AttentionCall::takes(q, window_kv, sink, rope_dim, freqs)) {
    return call_reference<Tensor>("window_attention", q, window_kv, window_table, cu_seqlens_q, start_pos, sink, scale,
                                  window, rope_dim, official, positions, freqs);
  }
  AttentionCall call(q, window_kv, window_table, cu_seqlens_q, start_pos, sink, scale, window, rope_dim, official,
                     positions, freqs);
  return call.run("window_attention");
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) {
  m.impl("window_attention", TORCH_BOX(&v4npu::cuda::launch_window_attention));
}
