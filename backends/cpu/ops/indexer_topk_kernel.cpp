// indexer_topk on the CPU: a thread takes a tile of queries and walks their keys (paged/indexer.h), keeping the best
// of each. Where there are fewer tiles than threads the keys are split too, and the best of the parts are merged: the
// order of candidates is total, so that no split shows. Scratch beside the tile's: 16 * topk + 512 bytes per query.
#include "v4npu/ops/indexer_topk.h"

#include "paged/indexer.h"
#include "paged/topk.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kLeastKeys = 256;  // of a part: below, waking a thread costs more

// 6 best first   7 -1 where there are fewer
V4NPU_INLINE void write(const IndexerTopkParams& p, int64_t token, uint64_t* best, int64_t count) {
  sort_descending(best, count);
  int32_t* out = p.topk_indices + token * p.topk;
  for (int64_t i = 0; i < p.topk; ++i) out[i] = i < count ? index_of(best[i]) : -1;
}

// The parts of every query tile leave their candidates here; null when a tile is one part.
struct Parts {
  uint64_t* best;  // [tiles, parts, query_tile, topk], 0 = none: no score's rank is 0
  int64_t parts;
};

template <class T, class R>
void tiles(const IndexerTopkParams& p, const Parts& parts, int64_t begin, int64_t end) {
  const int64_t capacity = Best::capacity(p.topk);
  const int64_t tile = IndexerTile::size(p.query_tile, p.num_heads, p.head_dim) * static_cast<int64_t>(sizeof(float));
  auto* buffers = static_cast<uint64_t*>(
      scratch(Scratch::kBody, tile + p.query_tile * capacity * static_cast<int64_t>(sizeof(uint64_t))));
  auto* memory = reinterpret_cast<float*>(buffers + p.query_tile * capacity);
  for (int64_t item = begin; item < end; ++item) {
    const QueryTile t = query_tile(p, item / parts.parts);
    const int64_t all = visible(t.position + t.count - 1, p.ratio), part = item % parts.parts;
    const int64_t step = ((all + parts.parts - 1) / parts.parts + kKeyTile - 1) / kKeyTile * kKeyTile;
    const int64_t lo = part * step < all ? part * step : all, hi = lo + step < all ? lo + step : all;
    Best best[kMostQueries];
    for (int64_t i = 0; i < t.count; ++i) best[i] = {buffers + i * capacity, 0, p.topk, -__builtin_inff()};
    if (lo < hi) {
      walk<T, R>(p, t, lo, hi, memory, [&](int64_t query, int64_t first, int64_t n, const float* scores) {
        best[query].take(scores, n, first);
      });
    }
    for (int64_t i = 0; i < t.count; ++i) {
      best[i].shrink();
      if (parts.best == nullptr) {
        write(p, t.token + i, best[i].buffer, best[i].count);
        continue;
      }
      uint64_t* to = parts.best + (item * p.query_tile + i) * p.topk;
      for (int64_t k = 0; k < p.topk; ++k) to[k] = k < best[i].count ? best[i].buffer[k] : 0;
    }
  }
}

void merge(const IndexerTopkParams& p, const Parts& parts, int64_t tile) {
  const QueryTile t = query_tile(p, tile);
  auto* all =
      static_cast<uint64_t*>(scratch(Scratch::kBody, parts.parts * p.topk * static_cast<int64_t>(sizeof(uint64_t))));
  for (int64_t i = 0; i < t.count; ++i) {
    int64_t count = 0;
    for (int64_t part = 0; part < parts.parts; ++part) {
      const uint64_t* from = parts.best + ((tile * parts.parts + part) * p.query_tile + i) * p.topk;
      for (int64_t k = 0; k < p.topk && from[k] != 0; ++k) all[count++] = from[k];
    }
    if (count > p.topk) {
      keep_largest(all, count, p.topk);
      count = p.topk;
    }
    write(p, t.token + i, all, count);
  }
}

}  // namespace

void indexer_topk(const IndexerTopkParams& p) {
  const auto exact = p.dtype == Dtype::kFloat32 ? &tiles<float, float> : &tiles<bf16, float>;
  const auto body = p.official && p.dtype == Dtype::kBfloat16 ? &tiles<bf16, bf16> : exact;
  const int64_t count = query_tiles(p), threads = num_threads();
  int64_t keys = 0;
  for (int64_t b = 0; b < p.num_seqs; ++b) {
    const int64_t all = visible(int64_t{p.start_pos[b]} + p.cu_seqlens_q[b + 1] - p.cu_seqlens_q[b] - 1, p.ratio);
    keys = all > keys ? all : keys;
  }
  Parts parts{nullptr, 1};
  const int64_t least = p.topk > kLeastKeys ? p.topk : kLeastKeys;  // nor is there more to merge than to score
  if (count > 0 && count < threads && keys >= 2 * least) {
    parts.parts = (threads + count - 1) / count < keys / least ? (threads + count - 1) / count : keys / least;
    const int64_t size = count * parts.parts * p.query_tile * p.topk * static_cast<int64_t>(sizeof(uint64_t));
    parts.best = static_cast<uint64_t*>(scratch(Scratch::kCall, size));
  }
  const int64_t work = (p.num_tokens < p.query_tile ? p.num_tokens : p.query_tile) * (keys / parts.parts + 1);
  parallel_shares(count * parts.parts, work * p.num_heads * p.head_dim / 8,
                  [&](int64_t begin, int64_t end) { body(p, parts, begin, end); });
  if (parts.best == nullptr) return;
  for (int64_t tile = 0; tile < count; ++tile) merge(p, parts, tile);
}

}  // namespace v4npu::cpu::V4NPU_ISA
