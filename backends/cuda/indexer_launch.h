// What the launchers of indexer_scores and indexer_topk share.
#pragma once

#include "launch.h"

namespace v4npu::cuda {

// The tensors of a call, contiguous where they must be; a launcher adds its output.
template <class Params>
struct IndexerCall {
  Tensor q, weights, block_table, cu_seqlens_q, start_pos;
  Params p{};

  static bool takes(const Tensor& q, const Tensor& weights, const Tensor& keys) {
    const bool packed = keys.scalar_type() == ScalarType::Byte;
    return runs(q) && q.scalar_type() == ScalarType::BFloat16 && weights.scalar_type() == q.scalar_type() &&
           (packed ? q.size(2) % 32 == 0 : keys.scalar_type() == q.scalar_type());
  }

  IndexerCall(const Tensor& q_, const Tensor& weights_, const Tensor& keys, const Tensor& block_table_,
              const Tensor& cu_seqlens_q_, const Tensor& start_pos_, int64_t ratio, bool official)
      : q(dense(q_)),
        weights(dense(weights_)),
        block_table(dense(block_table_)),
        cu_seqlens_q(dense(cu_seqlens_q_)),
        start_pos(dense(start_pos_)) {
    p.q = pointer<void>(q), p.weights = pointer<void>(weights), p.keys = pointer<void>(keys);
    p.block_table = pointer<int32_t>(block_table);
    p.cu_seqlens_q = pointer<int32_t>(cu_seqlens_q), p.start_pos = pointer<int32_t>(start_pos);
    p.num_tokens = q.size(0), p.num_seqs = start_pos.size(0), p.num_heads = q.size(1), p.head_dim = q.size(2);
    p.block_size = keys.size(1), p.max_blocks = block_table.size(1), p.ratio = ratio;
    p.block_stride = keys.stride(0) * static_cast<int64_t>(keys.element_size());
    p.packed = keys.scalar_type() == ScalarType::Byte, p.official = official, p.dtype = dtype_of(q);
  }
  int64_t width() const { return p.max_blocks * p.block_size; }
  std::string kernel(const char* op) const {
    return std::string(op) + (p.packed ? "_packed" : "_plain") + (p.official ? "_official" : "");
  }
};

}  // namespace v4npu::cuda
