#include "attention.h"

#include "ops/check.h"

namespace v4npu::ascend {

bool AttentionCall::takes(const Tensor& q, const Tensor& kv, const OptTensor& sink, int64_t rope_dim) {
  const int64_t head_dim = q.size(2), keep = head_dim - rope_dim;
  const bool plain = (suffix(q) == "fp32" || suffix(q) == "bf16") && suffix(kv) == suffix(q);
  const bool packed = kv.scalar_type() == ScalarType::Byte && suffix(q) == "bf16" && keep > 0 && keep % 32 == 0 &&
                      rope_dim % 16 == 0 && rope_dim <= 64;
  return ready() && (plain || packed) && is_float32(sink) && q.size(1) > 0 && head_dim > 0 && head_dim <= 512 &&
         head_dim % 16 == 0;
}

AttentionCall::AttentionCall(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                             const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& sink, double scale,
                             int64_t window, int64_t rope_dim, bool official)
    : q_(dense(q)),
      cu_seqlens_q_(dense(cu_seqlens_q)),
      start_pos_(dense(start_pos)),
      sink_(dense(sink)),
      window_pages_(pages(window_kv, window_table)),
      window_(window),
      rope_dim_(rope_dim),
      scale_(static_cast<float>(scale)),
      official_(official) {}

AttentionCall::Pages AttentionCall::pages(const Tensor& data, const Tensor& table) {
  return {data, dense(table), data.size(0), data.size(1), data.stride(0), table.size(1)};
}

void AttentionCall::entries(const Tensor& compressed_kv, const Tensor& block_table, const OptTensor& topk_indices,
                            int64_t ratio) {
  entry_pages_ = pages(compressed_kv, block_table);
  picks_ = dense(topk_indices);
  ratio_ = ratio;
}

Tensor AttentionCall::run(const std::string& op) {
  const int64_t num_tokens = q_.size(0), num_heads = q_.size(1), head_dim = q_.size(2), num_seqs = start_pos_.size(0);
  const int64_t topk = picks_ ? picks_->size(1) : 0;
  const int64_t tile = head_tile(q_, num_tokens, num_heads), tiles = ceil_div(num_heads, tile);
  const int64_t blocks = blocks_of(q_, Core::kCube, num_tokens * tiles);
  Tensor out = uninitialised_like(q_);
  Tensor plan = uninitialised(q_, {1024}, ScalarType::Int);  // query_plan.h
  const auto element = static_cast<int64_t>(q_.element_size());
  Tensor workspace = bytes(q_, blocks * 2 * (tile * (2 * 64 + head_dim) * 4 + 64 * head_dim * element));
  launch(op + "_plan", blocks > 0, q_, pointer(cu_seqlens_q_), pointer(start_pos_), pointer(plan), num_tokens, num_seqs,
         window_, entry_pages_.rows * entry_pages_.of_sequence, topk, ratio_, tiles, blocks);
  const Pages &w = window_pages_, &e = entry_pages_;
  const bool packed = w.data->scalar_type() == ScalarType::Byte;
  launch_on(Core::kCube, op + "_" + (packed ? "packed" : suffix(q_)), blocks, q_, pointer(q_), pointer(w.data),
            pointer(w.table), pointer(e.data), pointer(e.table), pointer(picks_), pointer(cu_seqlens_q_),
            pointer(start_pos_), pointer(sink_), pointer(plan), pointer(workspace), pointer(out), num_tokens, num_seqs,
            num_heads, head_dim, w.count, w.rows, w.stride, w.of_sequence, window_, e.count, e.rows, e.stride,
            e.of_sequence, rope_dim_, topk, ratio_, tile, scale_, static_cast<int32_t>(official_));
  return out;
}

}  // namespace v4npu::ascend
