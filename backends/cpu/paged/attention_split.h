// attention.h where a call has fewer pieces than there are threads: one token after the other, by all threads.
//
// First the scores, of 16 places of the list at a time; then the softmax, of 16 heads; then the sums, of 64 dims, for
// which the rows are gathered a second time. Each value is made by the same operations in the same order as by one
// thread, so that the split shows in no result. Scratch for 16 heads and 640 places of 512: 75 KiB, and 150 KiB for
// each thread.
#pragma once

#include "paged/attention.h"

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kSplitPlaces = 16, kSplitDims = kFp8Block;
constexpr int64_t kLeastSplit = 64 * 16 * 512;    // rows * heads * dims: below, waking threads twice more costs more
constexpr int64_t kMostSplit = int64_t{4} << 20;  // bytes of scores

V4NPU_INLINE int64_t rows_among(const List& l, int64_t begin, int64_t end) {
  int64_t n = 0;
  each_row(l, begin, end, [&](RowAt) __attribute__((always_inline)) { ++n; });
  return n;
}

template <class T, Lane L>
struct SplitToken {
  const Attention& a;
  const List l;
  const int64_t token, blocks;
  State s;          // whose scores and rescale are those of all blocks, [blocks, 64, lanes] and [blocks, lanes]
  int64_t* counts;  // rows that exist, [blocks]

  V4NPU_INLINE int64_t bytes(const Attention& a, int64_t places) {
    const int64_t lanes = whole_vectors(a.num_heads), blocks = (places + kPlaces - 1) / kPlaces;
    return 4 * (size_of_q<L>(lanes, a.head_dim) + lanes * (blocks * (kPlaces + 1) + 2)) + 8 * blocks;
  }
  V4NPU_MEMBER SplitToken(const Attention& attention, int64_t of, const List& list, void* memory)
      : a(attention), l(list), token(of), blocks((l.places + kPlaces - 1) / kPlaces), s{} {
    s.lanes = whole_vectors(a.num_heads);
    counts = static_cast<int64_t*>(memory);
    s.q = reinterpret_cast<float*>(counts + blocks);
    s.scores = s.q + size_of_q<L>(s.lanes, a.head_dim);
    s.rescale = s.scores + blocks * kPlaces * s.lanes;
    s.peak = s.rescale + blocks * s.lanes;
    s.total = s.peak + s.lanes;
    load_q<T, L>(a, token, 0, a.num_heads, s);
  }
  V4NPU_MEMBER State of_block(int64_t block) const {
    State own = s;
    own.scores += block * kPlaces * s.lanes;
    own.rescale += block * s.lanes;
    return own;
  }

  V4NPU_INLINE int64_t bytes_of_score(const Attention& a) {
    return 4 * (size_of_tile<L>(kSplitPlaces, a.head_dim) + size_of_pairs<L>(kSplitPlaces, a.head_dim));
  }
  // 2 gather kv   3 scores, of the places [begin, begin + 16)
  V4NPU_MEMBER void score_places(int64_t begin, float* memory) const {
    const int64_t block = begin / kPlaces, before = rows_among(l, block * kPlaces, begin);
    RowAt rows[kSplitPlaces];
    const int64_t n = rows_of(l, begin, begin + kSplitPlaces, rows);
    RowsAhead ahead(a, l, begin + kSplitPlaces, begin + 2 * kSplitPlaces);
    if (begin + kSplitPlaces >= (block + 1) * kPlaces || begin + kSplitPlaces >= l.places) counts[block] = before + n;
    State own = of_block(block);
    own.tile = memory;
    own.pairs = memory + size_of_tile<L>(kSplitPlaces, a.head_dim);
    own.scores += before * s.lanes;
    score<T, L>(a, rows, n, token, 0, a.num_heads, own, ahead);
  }

  // 4 online softmax   6 sink, of the heads [h, h + 16)
  V4NPU_MEMBER void weigh(int64_t h) const {
    start(kLanes, s.peak + h, s.total + h);
    for (int64_t block = 0; block < blocks; ++block) softmax<L>(a, of_block(block), h, counts[block]);
    add_sink(a, h, a.num_heads - h, kLanes, s.peak + h, s.total + h);
  }

  V4NPU_MEMBER int64_t bytes_of_sums(int64_t dims) const {
    const int64_t row = whole_vectors(dims);
    return 4 * (size_of_tile<L>(kPlaces, row) + s.lanes * row + kHeld<L> * size_of_pairs<L>(kPlaces, row));
  }
  // 5 accumulate   7 one rounding, of the dims [begin, end)
  V4NPU_MEMBER void sum(int64_t begin, int64_t end, float* memory) const {
    State own = s;
    own.tile = memory;
    own.row = whole_vectors(end - begin);
    own.sums = memory + size_of_tile<L>(kPlaces, own.row);
    own.pairs = own.sums + s.lanes * own.row;
    std::memset(own.sums, 0, static_cast<size_t>(s.lanes * own.row) * sizeof(float));
    Weighed held[kHeld<L>];
    int64_t count = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      RowAt rows[kPlaces];
      const int64_t n = rows_of(l, block * kPlaces, (block + 1) * kPlaces, rows);
      if (n == 0) continue;
      State weighing = held_at<L>(own, count);
      weighing.scores = of_block(block).scores;
      weighing.rescale = of_block(block).rescale;
      gather<T, L>(a, rows, n, begin, end, weighing);
      held[count++] = weighed<L>(weighing, n);
      if (count < kHeld<L>) continue;
      accumulate_all<L>(own, a.num_heads, held, count);
      count = 0;
    }
    accumulate_all<L>(own, a.num_heads, held, count);
    store_out(own, a.num_heads, static_cast<T*>(a.out) + token * a.num_heads * a.head_dim + begin, a.head_dim,
              end - begin);
  }
};

// Whether it did: where one thread does as well, or the heads go round, it does nothing.
template <class T, Lane L>
bool attend_split(const Attention& a) {
  const int64_t threads = num_threads(), lanes = whole_vectors(a.num_heads), row = lanes * a.head_dim;
  if (a.num_tokens * (lanes / kLanes) >= threads) return false;
  for (int64_t token = 0; token < a.num_tokens; ++token) {
    const List l = list_of(a, token);
    if ((l.seen + l.places - l.width) * row < kLeastSplit || 4 * l.places * lanes > kMostSplit) return false;
  }
  const int64_t parts = (a.head_dim + kSplitDims - 1) / kSplitDims;
  for (int64_t token = 0; token < a.num_tokens; ++token) {
    const List l = list_of(a, token);
    const SplitToken<T, L> whole(a, token, l, scratch(Scratch::kCall, SplitToken<T, L>::bytes(a, l.places)));
    parallel_rows((l.places + kSplitPlaces - 1) / kSplitPlaces, kSplitPlaces * row,
                  [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
                    void* memory = scratch(Scratch::kBody, SplitToken<T, L>::bytes_of_score(a));
                    for (int64_t i = begin; i < end; ++i)
                      whole.score_places(i * kSplitPlaces, static_cast<float*>(memory));
                  });
    parallel_rows(lanes / kLanes, l.places * 16 * kLanes,
                  [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
                    for (int64_t i = begin; i < end; ++i) whole.weigh(i * kLanes);
                  });
    parallel_rows(parts, l.places * lanes * kSplitDims, [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
      const int64_t from = begin * kSplitDims, to = end * kSplitDims < a.head_dim ? end * kSplitDims : a.head_dim;
      whole.sum(from, to, static_cast<float*>(scratch(Scratch::kBody, whole.bytes_of_sums(to - from))));
    });
    if (a.turned_dim == 0) continue;
    turn_back<T>(a, token, 0, a.num_heads, static_cast<float*>(scratch(Scratch::kBody, 8 * a.turned_dim)));
  }
  return true;
}

}  // namespace v4npu::cpu::V4NPU_ISA
