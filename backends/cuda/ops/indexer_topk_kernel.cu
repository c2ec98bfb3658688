// indexer_topk on CUDA (sm_80 and later), bfloat16 and float32. indexer_topk_<keys>: a block of 8 warps takes a part of
// the keys of a query, 256 at a time (device/indexer.cuh; packed ones are copied while those before are scored), and
// keeps the best of them (device/topk.cuh). A query of one part is done by that; else indexer_topk_merge, a block to a
// query, takes the best of its parts. From sm_90 on 8 parts may be a cluster, and merge their own
// (indexer_topk_kernel_sm90.cu). For long prompts indexer_scores_tile_... stores the scores of some tokens and keys
// (plan/gpu.h), and indexer_topk_select, a block to a token, takes the best of them as a part.
// Limits: 128 registers, 0 bytes of stack, 32896 bytes of shared memory.
#include "v4npu/ops/indexer_topk.h"

#include "../device/search.cuh"

namespace v4npu::cuda {

template <Format K, bool Official>
V4NPU_DEVICE void search(const TopkSearch& search) {
  Best best{shared<TopkSpace>(), static_cast<int>(search.call.topk)};
  search_part<K, Official>(search.call, search.parts, search.stages, best);
  hand_on(search.call, block_x(), search.best, search.parts, block_y(), best);
}

V4NPU_DEVICE void select(const TopkSelect& select) {
  const IndexerTopkParams& p = select.call;
  const int64_t row = block_x(), t = select.first_token + row;
  const int64_t visible = visible_entries(p, place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t));
  const int64_t end = visible < select.end_key ? visible : select.end_key;
  const float* scores = select.scores + row * (select.end_key - select.first_key) - select.first_key;
  Best best{shared<TopkSpace>(), static_cast<int>(p.topk)};
  for (int64_t first = select.first_key; first < end; first += kRowThreads) {
    const int64_t key = first + thread_id();
    best.add(key < end ? candidate(scores[key], key) : 0);
  }
  if (select.parts == 1) return write(p, t, best);
  leave(select.best + (row * select.parts + select.part) * p.topk, p.topk, best);
}

V4NPU_DEVICE void merge(const TopkSearch& search) {
  const IndexerTopkParams& p = search.call;
  const int64_t t = block_x(), all = search.parts * p.topk;
  Best best{shared<TopkSpace>(), static_cast<int>(p.topk)};
  for (int64_t i = thread_id(); i - thread_id() < all; i += kRowThreads)
    best.add(i < all ? search.best[t * all + i] : 0);
  write(p, search.first_token + t, best);
}

}  // namespace v4npu::cuda

#define V4NPU_SEARCH(name, K, official)                                                         \
  V4NPU_KERNEL_BY_TWO(indexer_topk_##name, v4npu::cuda::kRowThreads, v4npu::cuda::TopkSearch) { \
    v4npu::cuda::search<v4npu::cuda::Format::K, official>(p);                                   \
  }
V4NPU_SEARCH(fp32, kFloat32, false)
V4NPU_SEARCH(plain, kBfloat16, false)
V4NPU_SEARCH(plain_official, kBfloat16, true)
V4NPU_SEARCH(fp4, kFloat4, false)
V4NPU_SEARCH(fp4_official, kFloat4, true)
V4NPU_SEARCH(fp8, kFloat8, false)
V4NPU_SEARCH(fp8_official, kFloat8, true)
#undef V4NPU_SEARCH
V4NPU_KERNEL(indexer_topk_select, v4npu::cuda::kRowThreads, v4npu::cuda::TopkSelect) { v4npu::cuda::select(p); }
V4NPU_KERNEL(indexer_topk_merge, v4npu::cuda::kRowThreads, v4npu::cuda::TopkSearch) { v4npu::cuda::merge(p); }
