#include "v4npu/ops/indexer_scores.h"

#include <algorithm>

#include "../paged/launch.h"
#include "ops/calls.h"

namespace v4npu::cpu {

V4NPU_CPU_KERNEL(indexer_scores, IndexerScoresParams)

Tensor launch_indexer_scores(const Tensor& q_, const Tensor& weights_, const Tensor& keys, const Tensor& block_table,
                             const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, bool official) {
  check_indexer_scores(q_, weights_, keys, block_table, cu_seqlens_q, start_pos, ratio, official);
  const Pages pages(keys, block_table);
  if (!native(q_) || weights_.scalar_type() != q_.scalar_type() || !pages.native(q_)) {
    return call_reference<Tensor>("indexer_scores", q_, weights_, keys, block_table, cu_seqlens_q, start_pos, ratio,
                                  official);
  }
  const Tensor q = dense(q_), weights = dense(weights_);
  const Sequences seqs(cu_seqlens_q, start_pos, q.size(0));
  const int64_t width = pages.max_blocks * pages.block_size;  // entries past it are not asked for
  for (int64_t b = 0; b < seqs.count; ++b) {
    if (seqs.length(b) > 0) pages.check(b, 0, std::min(seqs.total(b) / ratio, width) - 1);
  }
  Tensor out = uninitialised(q, {q.size(0), width}, ScalarType::Float);
  IndexerScoresParams p{};
  p.q = pointer<void>(q);
  p.weights = pointer<void>(weights);
  p.keys = pointer<void>(keys);
  p.block_table = pointer<int32_t>(pages.table);
  p.cu_seqlens_q = seqs.end;
  p.start_pos = seqs.start;
  p.scores = static_cast<float*>(out.mutable_data_ptr());
  p.num_tokens = q.size(0);
  p.num_seqs = seqs.count;
  p.num_heads = q.size(1);
  p.head_dim = q.size(2);
  p.block_size = pages.block_size;
  p.block_stride = pages.stride;
  p.max_blocks = pages.max_blocks;
  p.ratio = ratio;
  p.official = official;
  p.dtype = dtype_of(q);
  p.keys_are = key_format(keys, p.head_dim);
  p.query_tile = plan_cpu_query_tile(p.num_heads, p.head_dim, this_cpu());
  run_kernel(p);
  return out;
}

}  // namespace v4npu::cpu

STABLE_TORCH_LIBRARY_IMPL(v4npu, CPU, m) { m.impl("indexer_scores", TORCH_BOX(&v4npu::cpu::launch_indexer_scores)); }
