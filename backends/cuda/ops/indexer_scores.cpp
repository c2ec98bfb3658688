#include "v4npu/ops/indexer_scores.h"

#include "../launch.h"

namespace v4npu::cuda {

Tensor launch_indexer_scores(const Tensor& q_, const Tensor& weights_, const Tensor& keys, const Tensor& block_table_,
                             const Tensor& cu_seqlens_q_, const Tensor& start_pos_, int64_t ratio, bool official) {
  check_indexer_scores(q_, weights_, keys, block_table_, cu_seqlens_q_, start_pos_, ratio, official);
  const bool packed = keys.scalar_type() == ScalarType::Byte, bfloat = q_.scalar_type() == ScalarType::BFloat16;
  if (!runs(q_) || !bfloat || weights_.scalar_type() != q_.scalar_type() ||
      !(packed ? q_.size(2) % 32 == 0 : keys.scalar_type() == q_.scalar_type())) {
    return call_reference<Tensor>("indexer_scores", q_, weights_, keys, block_table_, cu_seqlens_q_, start_pos_, ratio,
                                  official);
  }
  const Tensor q = dense(q_), weights = dense(weights_), block_table = dense(block_table_);
  const Tensor cu_seqlens_q = dense(cu_seqlens_q_), start_pos = dense(start_pos_);
  IndexerScoresParams p{};
  p.q = pointer<void>(q), p.weights = pointer<void>(weights), p.keys = pointer<void>(keys);
  p.block_table = pointer<int32_t>(block_table);
  p.cu_seqlens_q = pointer<int32_t>(cu_seqlens_q), p.start_pos = pointer<int32_t>(start_pos);
  p.num_tokens = q.size(0), p.num_seqs = start_pos.size(0), p.num_heads = q.size(1), p.head_dim = q.size(2);
  p.block_size = keys.size(1), p.max_blocks = block_table.size(1), p.ratio = ratio;
  p.block_stride = keys.stride(0) * static_cast<int64_t>(keys.element_size());
  p.packed = packed, p.official = official, p.dtype = dtype_of(q);
  const int64_t width = p.max_blocks * p.block_size;
  Tensor out = torch::stable::new_empty(q, {p.num_tokens, width}, ScalarType::Float);
  p.scores = static_cast<float*>(out.mutable_data_ptr());
  const std::string kernel = std::string("indexer_scores_") + (packed ? "packed" : "plain");
  const int64_t blocks = p.num_seqs > 0 ? p.num_tokens : 0;
  run("indexer_scores", official ? kernel + "_official" : kernel, p, {blocks, ceil_of(width, kRowWarps * 32)},
      kRowThreads, q);
  return out;
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("indexer_scores", TORCH_BOX(&v4npu::cuda::launch_indexer_scores)); }
