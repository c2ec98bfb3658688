// indexer_scores on the CPU: a thread takes a tile of queries; paged/indexer.h.
#include "v4npu/ops/indexer_scores.h"

#include "paged/indexer.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <class T, class R>
void tiles(const IndexerScoresParams& p, int64_t begin, int64_t end) {
  const int64_t width = p.max_blocks * p.block_size;
  const int64_t bytes = IndexerTile::size(p.query_tile, p.num_heads, p.head_dim) * static_cast<int64_t>(sizeof(float));
  auto* memory = static_cast<float*>(scratch(Scratch::kBody, bytes));
  for (int64_t i = begin; i < end; ++i) {
    const QueryTile t = query_tile(p, i);
    const int64_t all = visible(t.position + t.count - 1, p.ratio), hi = all < width ? all : width;
    for (int64_t k = t.token * width; k < (t.token + t.count) * width; ++k) p.scores[k] = -__builtin_inff();
    walk<T, R>(p, t, 0, hi, memory, [&](int64_t query, int64_t first, int64_t n, const float* scores) {
      std::memcpy(p.scores + (t.token + query) * width + first, scores, static_cast<size_t>(n) * sizeof(float));
    });
  }
}

}  // namespace

void indexer_scores(const IndexerScoresParams& p) {
  const auto exact = p.dtype == Dtype::kFloat32 ? &tiles<float, float> : &tiles<bf16, float>;
  const auto body = p.official && p.dtype == Dtype::kBfloat16 ? &tiles<bf16, bf16> : exact;
  parallel_rows(query_tiles(p), p.query_tile * p.max_blocks * p.block_size * p.num_heads * p.head_dim,
                [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
