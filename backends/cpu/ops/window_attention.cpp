#include "v4npu/ops/window_attention.h"

#include "../paged/launch.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(window_attention, WindowAttentionParams)

Tensor launch_window_attention(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                               const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& sink, double scale,
                               int64_t window, int64_t rope_dim, bool official, const OptTensor& positions,
                               const OptTensor& freqs) {
  check_window_attention(q, window_kv, window_table, cu_seqlens_q, start_pos, sink, scale, window, rope_dim, official,
                         positions, freqs);
  if (!AttentionCall<WindowAttentionParams>::takes(q, window_kv, sink)) {
    return call_reference<Tensor>("window_attention", q, window_kv, window_table, cu_seqlens_q, start_pos, sink, scale,
                                  window, rope_dim, official, positions, freqs);
  }
  AttentionCall<WindowAttentionParams> call(q, window_kv, window_table, cu_seqlens_q, start_pos, sink, scale, window,
                                            rope_dim, official, positions, freqs);
  run_kernel(call.p);
  return call.out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) {
  m.impl("window_attention", TORCH_BOX(&v4npu::cpu::launch_window_attention));
}
