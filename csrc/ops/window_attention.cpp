#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_window_attention(const Tensor& q, const Tensor& window_kv, const Tensor& cu_seqlens_q,
                            const Tensor& start_pos, const OptTensor& attn_sink, double /*softmax_scale*/,
                            int64_t window, bool /*official*/) {
  Check check("window_attention");
  Axis num_tokens("num_tokens"), num_heads("num_heads"), head_dim("head_dim"), num_seqs("num_seqs"), ring("ring");
  check.tensor("q", q, kFloating, num_tokens, num_heads, head_dim);
  check.sequences(cu_seqlens_q, start_pos, num_seqs);
  check.tensor("window_kv", window_kv, kFloating, num_seqs, ring, head_dim);
  check.positive("window_kv's ring", *ring);
  check.tensor("attn_sink", attn_sink, kFloat32, num_heads);
  check.positive("window", window);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("window_attention", TORCH_BOX(&v4npu::check_window_attention));
}
