// The best k of a stream of scores, ties to the smaller index. A candidate is one integer that orders as the contract
// does: the score's bits made ascending, above the index made descending; so no two are equal.
#pragma once

#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

V4NPU_INLINE uint64_t candidate(float score, int64_t index) {
  const float x = score + 0.0f;  // -0 and 0 are equal scores
  const uint32_t bits = float_bits(x);
  const uint32_t rank = x != x ? 0xffffffff : bits ^ (bits >> 31 != 0 ? 0xffffffff : 0x80000000);
  return uint64_t{rank} << 32 | (0xffffffff - static_cast<uint32_t>(index));
}
V4NPU_INLINE int32_t index_of(uint64_t c) { return static_cast<int32_t>(0xffffffff - static_cast<uint32_t>(c)); }
V4NPU_INLINE float score_of(uint64_t c) {
  const auto rank = static_cast<uint32_t>(c >> 32);
  return bits_float(rank == 0xffffffff ? 0x7fc00000 : rank ^ (rank >> 31 != 0 ? 0x80000000 : 0xffffffff));
}

V4NPU_INLINE void swap(uint64_t& a, uint64_t& b) {
  const uint64_t c = a;
  a = b;
  b = c;
}

// Splits x [lo, hi] at some value: what is left of the returned place is larger than all from it on.
V4NPU_INLINE int64_t split(uint64_t* x, int64_t lo, int64_t hi) {
  const int64_t mid = lo + (hi - lo) / 2;
  if (x[mid] > x[lo]) swap(x[mid], x[lo]);
  if (x[hi] > x[lo]) swap(x[hi], x[lo]);
  if (x[mid] > x[hi]) swap(x[mid], x[hi]);  // the median of three is at the end
  const uint64_t pivot = x[hi];
  int64_t at = lo;
  for (int64_t i = lo; i < hi; ++i) {
    const uint64_t value = x[i];
    x[i] = x[at];
    x[at] = value;
    at += value > pivot;
  }
  swap(x[at], x[hi]);
  return at;
}

// The k largest of x [n] to its front, the smallest of them last; k < n.
static void keep_largest(uint64_t* x, int64_t n, int64_t k) {
  int64_t lo = 0, hi = n - 1;
  while (lo < hi) {
    const int64_t at = split(x, lo, hi);
    if (at == k - 1) return;
    if (at < k - 1) {
      lo = at + 1;
    } else {
      hi = at - 1;
    }
  }
}

// Heap sort, largest first: no input makes it slow.
static void sort_descending(uint64_t* x, int64_t n) {
  const auto sink = [&](int64_t i, int64_t end) {
    for (int64_t child = 2 * i + 1; child < end; i = child, child = 2 * i + 1) {
      if (child + 1 < end && x[child + 1] < x[child]) ++child;
      if (x[i] <= x[child]) return;
      swap(x[i], x[child]);
    }
  };
  for (int64_t i = n / 2 - 1; i >= 0; --i) sink(i, n);
  for (int64_t end = n - 1; end > 0; --end) {
    swap(x[0], x[end]);
    sink(0, end);
  }
}

// Keeps candidates until the buffer is full, then the best k of them and what the next must exceed.
struct Best {
  uint64_t* buffer;  // [capacity]
  int64_t count, k;
  float least;

  static constexpr int64_t capacity(int64_t k) { return 2 * k + 64; }

  // Scores of the indices from `first` on, which rise from call to call: a later equal score never wins. Whole vectors
  // are read.
  V4NPU_MEMBER void take(const float* scores, int64_t n, int64_t first) {
    for (int64_t at = 0; at < n; at += kLanes) {
      uint32_t better = above(load(scores + at), least);
      if (n - at < kLanes) better &= (1u << (n - at)) - 1;
      for (; better != 0; better &= better - 1) {
        const int64_t i = at + __builtin_ctz(better);
        buffer[count++] = candidate(scores[i], first + i);
        if (count == capacity(k)) shrink();
      }
    }
  }
  V4NPU_MEMBER void shrink() {
    if (count <= k) return;
    keep_largest(buffer, count, k);
    count = k;
    least = score_of(buffer[k - 1]);
  }
};

}  // namespace v4npu::cpu::V4NPU_ISA
