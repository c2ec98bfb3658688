#include "indexer.h"

#include "ops/check.h"

namespace v4npu::ascend {
namespace {

// That of a row of a contiguous tensor.
void* row_pointer(const Tensor& t, int64_t row) {
  char* const data = static_cast<char*>(pointer(t));
  return data == nullptr ? nullptr : data + row * t.stride(0) * static_cast<int64_t>(t.element_size());
}

}  // namespace

bool IndexerCall::takes(const Tensor& q, const Tensor& weights, const Tensor& keys) {
  const int64_t num_heads = q.size(1), head_dim = q.size(2);
  const bool packed = keys.scalar_type() == ScalarType::Byte && suffix(q) == "bf16";
  return ready() && num_heads > 0 && num_heads <= 64 && head_dim > 0 && head_dim <= 128 &&
         (suffix(q) == "fp32" || suffix(q) == "bf16") && suffix(q) == suffix(weights) &&
         (packed || suffix(q) == suffix(keys));
}

IndexerCall::IndexerCall(const Tensor& q_, const Tensor& weights_, const Tensor& keys_, const Tensor& block_table_,
                         const Tensor& cu_seqlens_q_, const Tensor& start_pos_, int64_t ratio_, bool official)
    : q(dense(q_)),
      weights(dense(weights_)),
      keys(keys_),
      block_table(dense(block_table_)),
      cu_seqlens_q(dense(cu_seqlens_q_)),
      start_pos(dense(start_pos_)),
      num_tokens(q.size(0)),
      num_seqs(start_pos.size(0)),
      width(block_table.size(1) * keys.size(1)),
      ratio(ratio_),
      official_(official) {}

Tensor IndexerCall::scores(int64_t first, int64_t count, bool hides) const {
  constexpr int64_t kPlanWords = 1024, kTile = 64, kSlots = 2,
                    kMostDim = 128;  // query_plan.h, indexer_scores_kernel.asc
  const bool packed = keys.scalar_type() == ScalarType::Byte;
  const int64_t fp8_row = fp8_key_row(q.size(2)).row();
  const std::string kind = !packed ? suffix(q) : keys.size(2) == fp8_row ? "fp8" : "fp4";
  const int64_t blocks = blocks_of(q, Core::kCube, count * ceil_div(width, kTile));
  Tensor out = uninitialised(q, {count, width}, ScalarType::Float);
  Tensor plan = uninitialised(q, {kPlanWords}, ScalarType::Int);
  Tensor workspace =
      uninitialised(q, {blocks, kSlots, kTile * kTile + (packed ? kTile * kMostDim / 2 : 0)}, ScalarType::Float);
  launch("indexer_scores_plan", blocks > 0, q, pointer(cu_seqlens_q), pointer(start_pos), pointer(plan), count,
         num_seqs, ratio, width, first, blocks);
  launch_on(Core::kCube, "indexer_scores_" + kind, blocks, q, row_pointer(q, first), row_pointer(weights, first),
            pointer(keys), pointer(block_table), pointer(cu_seqlens_q), pointer(start_pos), pointer(plan),
            pointer(workspace), pointer(out), count, q.size(1), q.size(2), keys.size(0), keys.size(1), keys.stride(0),
            block_table.size(1), num_seqs, ratio, first, static_cast<int32_t>(hides), static_cast<int32_t>(official_));
  return out;
}

}  // namespace v4npu::ascend
