#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_hca_attention(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                         const Tensor& compressed_kv, const Tensor& block_table, const Tensor& cu_seqlens_q,
                         const Tensor& start_pos, const OptTensor& attn_sink, double /*softmax_scale*/, int64_t window,
                         int64_t ratio, int64_t rope_dim, bool /*official*/, const OptTensor& positions,
                         const OptTensor& freqs) {
  Check check("hca_attention");
  Axis num_tokens("num_tokens"), head_dim("head_dim"), num_seqs("num_seqs");
  check.attention({q, window_kv, window_table, cu_seqlens_q, start_pos, attn_sink, window, rope_dim, positions, freqs},
                  num_tokens, head_dim, num_seqs);
  check.pages("compressed_kv", compressed_kv, head_dim, fp8_kv_row(*head_dim, rope_dim), q.scalar_type());
  Axis max_blocks("max_blocks");
  check.tensor("block_table", block_table, kInt32, num_seqs, max_blocks);
  check.positive("ratio", ratio);
  check.each_sequence(cu_seqlens_q, start_pos, [&](const Check::Span& s) {
    check.rows({"block_table", block_table, "compressed_kv", compressed_kv}, s.sequence, 0, s.total / ratio - 1);
  });
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("hca_attention", TORCH_BOX(&v4npu::check_hca_attention));
}
