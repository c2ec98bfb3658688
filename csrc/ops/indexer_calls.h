// What launchers of indexer_scores and indexer_topk hand to their kernels, the same on every device; as calls.h.
#pragma once

#include "ops/tensors.h"
#include "v4npu/ops/indexer_scores.h"
#include "v4npu/ops/indexer_topk.h"
#include "v4npu/row_format.h"

namespace v4npu {

// The format of checked index keys.
inline KeyFormat key_format(const Tensor& keys, int64_t head_dim) {
  if (keys.scalar_type() != ScalarType::Byte) return KeyFormat::kPlain;
  return keys.size(2) == fp8_key_row(head_dim).row() ? KeyFormat::kFp8 : KeyFormat::kFp4;
}

// A launcher adds its output. The pages of keys may lie apart and are taken as they are.
template <class Params>
struct IndexerCall {
  Tensor q, weights, block_table, cu_seqlens_q, start_pos;
  Params p{};

  IndexerCall(const Tensor& q_, const Tensor& weights_, const Tensor& keys, const Tensor& block_table_,
              const Tensor& cu_seqlens_q_, const Tensor& start_pos_, int64_t ratio, bool official)
      : q(dense(q_)),
        weights(dense(weights_)),
        block_table(dense(block_table_)),
        cu_seqlens_q(dense(cu_seqlens_q_)),
        start_pos(dense(start_pos_)) {
    p.q = pointer<void>(q);
    p.weights = pointer<void>(weights);
    p.keys = pointer<void>(keys);
    p.block_table = pointer<int32_t>(block_table);
    p.cu_seqlens_q = pointer<int32_t>(cu_seqlens_q);
    p.start_pos = pointer<int32_t>(start_pos);
    p.num_tokens = q.size(0);
    p.num_seqs = start_pos.size(0);
    p.num_heads = q.size(1);
    p.head_dim = q.size(2);
    p.block_size = keys.size(1);
    p.block_stride = keys.stride(0) * static_cast<int64_t>(keys.element_size());
    p.max_blocks = block_table.size(1);
    p.ratio = ratio;
    p.official = official;
    p.dtype = dtype_of(q);
    p.key_format = key_format(keys, p.head_dim);
  }
};

}  // namespace v4npu
