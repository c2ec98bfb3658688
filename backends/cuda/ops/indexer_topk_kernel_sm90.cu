// indexer_topk on sm_90 and later: indexer_topk_<keys>_cluster is indexer_topk_<keys> where a query has 8 parts or
// more. The 8 blocks of a cluster have a part each, then two by two take the best of both from each other's shared
// memory: a query of 8 parts needs no second kernel, and for others indexer_topk_merge has an eighth of the candidates.
// Limits: 128 registers, 0 bytes of stack, 32896 bytes of shared memory.
#include "v4npu/ops/indexer_topk.h"

#include "../device/search.cuh"

namespace v4npu::cuda {

struct Listed {
  int32_t count;
};

template <Format K, bool Official>
V4NPU_DEVICE void search_cluster(const TopkSearch& search) {
  auto& space = shared<TopkSpace>();
  auto& listed = shared<Listed>();
  Best best{space, static_cast<int>(search.call.topk)};
  search_part<K, Official>(search.call, search.parts * kClusterBlocks, search.stages, best);
  const int member = block_y() % kClusterBlocks;
  for (int apart = 1; apart < kClusterBlocks; apart *= 2) {
    best.finish();
    if (member % apart == 0 && thread_id() == 0) listed.count = best.count;  // of others it may still be read
    sync_cluster();
    if (member % (2 * apart) != 0) continue;
    const int other = member + apart, count = read_shared(&listed.count, other);
    for (int i = thread_id(); i - thread_id() < count; i += kRowThreads)
      best.add(i < count ? read_shared(&space.list[i], other) : 0);
  }
  sync_cluster();  // with a block goes its shared memory
  if (member == 0) hand_on(search.call, block_x(), search.best, search.parts, block_y() / kClusterBlocks, best);
}

}  // namespace v4npu::cuda

#define V4NPU_SEARCH(name, K, official)                                                                      \
  V4NPU_CLUSTER_KERNEL(indexer_topk_##name##_cluster, v4npu::cuda::kRowThreads, v4npu::cuda::kClusterBlocks, \
                       v4npu::cuda::TopkSearch) {                                                            \
    v4npu::cuda::search_cluster<v4npu::cuda::Format::K, official>(p);                                        \
  }
V4NPU_SEARCH(plain, kBfloat16, false)
V4NPU_SEARCH(plain_official, kBfloat16, true)
V4NPU_SEARCH(fp4, kFloat4, false)
V4NPU_SEARCH(fp4_official, kFloat4, true)
V4NPU_SEARCH(fp8, kFloat8, false)
V4NPU_SEARCH(fp8_official, kFloat8, true)
#undef V4NPU_SEARCH
