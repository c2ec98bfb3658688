// The best k of a stream of candidates, kept by a block of 256 threads in shared memory. A candidate is one integer
// that orders as the contract of indexer_topk does, and no two are equal: so neither the order in which they come nor
// how they are split over blocks shows in a result. No atomics: places come from ballots and counts of the warps.
#pragma once

#include "rows.cuh"

namespace v4npu::cuda {

// The score's order above the index counted down; 0 = none, also for a score of -infinity.
V4NPU_INLINE uint64_t candidate(float score, int64_t index) {
  const uint32_t rank = order_of(score);
  return rank == order_of(-bits_float(0x7f800000)) ? 0 : uint64_t{rank} << 32 | ~static_cast<uint32_t>(index);
}
V4NPU_INLINE int32_t index_of(uint64_t candidate) { return static_cast<int32_t>(~static_cast<uint32_t>(candidate)); }

struct TopkSpace {
  uint64_t list[kTopkList];
  int32_t counts[2][kRowWarps];  // used in turn, so that one barrier between two uses is enough
};

struct Best {
  TopkSpace& space;
  int k;               // at most kMaxIndexTopk
  int count = 0;       // of the list
  uint64_t least = 1;  // what a candidate must be to matter
  int turn = 0;

  // One candidate of each thread. Everyone of the block comes here, whether there is one or not.
  V4NPU_INLINE void add(uint64_t c) {
    const uint32_t lanes = ballot(c >= least);
    if (lane_id() == 0) space.counts[turn][warp_id()] = count_bits(lanes);
    sync_block();
    int at = count;
    V4NPU_UNROLL
    for (int w = 0; w < kRowWarps; ++w) {
      at += w < warp_id() ? space.counts[turn][w] : 0;
      count += space.counts[turn][w];
    }
    if (c >= least) space.list[at + rank_in(lanes)] = c;
    turn ^= 1;
    if (count > kTopkList - kRowThreads) shrink();
  }

  // The k best to the front. Bisection: as no two are equal, some threshold lets exactly k through.
  V4NPU_INLINE void shrink() {
    constexpr int kEach = kTopkList / kRowThreads;
    sync_block();  // all of the list is there
    uint64_t mine[kEach];
    V4NPU_UNROLL
    for (int j = 0; j < kEach; ++j) {
      const int i = j * kRowThreads + thread_id();
      mine[j] = i < count ? space.list[i] : 0;
    }
    uint64_t high = ~uint64_t{0};
    int before = 0;  // of those that stay, in the warps before
    for (uint64_t low = least;;) {
      least = low + (high - low) / 2;
      int in_warp = 0;
      V4NPU_UNROLL
      for (int j = 0; j < kEach; ++j) in_warp += count_bits(ballot(mine[j] >= least));
      if (lane_id() == 0) space.counts[turn][warp_id()] = in_warp;
      sync_block();
      int all = before = 0;
      V4NPU_UNROLL
      for (int w = 0; w < kRowWarps; ++w) {
        before += w < warp_id() ? space.counts[turn][w] : 0;
        all += space.counts[turn][w];
      }
      turn ^= 1;
      if (all == k) break;
      if (all > k) {
        low = least + 1;
      } else {
        high = least;
      }
    }
    V4NPU_UNROLL
    for (int j = 0; j < kEach; ++j) {
      const uint32_t lanes = ballot(mine[j] >= least);
      if (mine[j] >= least) space.list[before + rank_in(lanes)] = mine[j];
      before += count_bits(lanes);
    }
    count = k;
  }

  // The best of all that came, at most k of them, to the front of the list in any order. Others may read it behind the
  // next barrier of the block.
  V4NPU_INLINE void finish() {
    if (count > k) shrink();
  }

  // Likewise, best first, and known to all.
  V4NPU_INLINE void sort() {
    finish();
    int size = 1;
    while (size < count) size *= 2;
    for (int i = count + thread_id(); i < size; i += kRowThreads) space.list[i] = 0;
    for (int run = 2; run <= size; run *= 2) {  // bitonic
      for (int step = run / 2; step > 0; step /= 2) {
        sync_block();
        for (int i = thread_id(); i < size / 2; i += kRowThreads) {
          const int a = 2 * i - (i & (step - 1)), b = a + step;
          const uint64_t x = space.list[a], y = space.list[b];
          if ((x < y) != ((a & run) == 0)) continue;
          space.list[a] = y;
          space.list[b] = x;
        }
      }
    }
    sync_block();
  }
};

}  // namespace v4npu::cuda
