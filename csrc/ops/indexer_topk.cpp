#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_indexer_topk(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
                        const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, int64_t topk,
                        bool /*official*/) {
  Check check("indexer_topk");
  Axis num_tokens("num_tokens"), num_heads("index_n_heads"), head_dim("index_head_dim");
  Axis num_seqs("num_seqs"), max_blocks("max_blocks");
  check.tensor("q", q, kFloating, num_tokens, num_heads, head_dim);
  check.tensor("weights", weights, kFloating, num_tokens, num_heads);
  check.keys(keys, head_dim, q.scalar_type());
  check.sequences(cu_seqlens_q, start_pos, num_seqs, num_tokens);
  check.tensor("block_table", block_table, kInt32, num_seqs, max_blocks);
  check.positive("ratio", ratio);
  check.positive("topk", topk);
  check.each_sequence(cu_seqlens_q, start_pos, [&](const Check::Span& s) {
    check.rows({"block_table", block_table, "keys", keys}, s.sequence, 0, s.total / ratio - 1);
  });
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("indexer_topk", TORCH_BOX(&v4npu::check_indexer_topk));
}
