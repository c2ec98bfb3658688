// Work over torch's own threads, so that torch.set_num_threads and OMP_NUM_THREADS hold for kernels too. Free of torch
// headers: kernels include it (see simd.h).
#pragma once

#include <cstdint>

namespace v4npu::cpu {

// body(begin, end, context) over disjoint ranges that cover [0, n), each of at least `grain` but the last.
void parallel_for(int64_t n, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context);

// Threads that parallel_for may use.
int num_threads();

namespace {

// Below this many elements per thread, waking one costs more than it saves.
constexpr int64_t kGrainElements = 16384;

// As many, in rows.
constexpr int64_t grain_of(int64_t elements_per_row) {
  const int64_t per_row = elements_per_row > 0 ? elements_per_row : 1;
  return per_row < kGrainElements ? kGrainElements / per_row : 1;
}

// body(begin, end) over ranges of whole rows. A kernel reduces a row within one call of body, so that neither the
// number of threads nor the number of rows can change a result.
template <class Body>
inline __attribute__((always_inline)) void parallel_rows(int64_t rows, int64_t elements_per_row, const Body& body) {
  parallel_for(
      rows, grain_of(elements_per_row),
      [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<Body*>(&body));
}

// item(i, worker) for every i below n. A worker takes those of its own range in turn, so that what they read lies one
// behind the other, and then what is left of others'. The order is not fixed: an item writes what no other writes.
template <class Item>
inline __attribute__((always_inline)) void each_item(int64_t n, int64_t workers, const Item& item) {
  constexpr int64_t kMost = 32;
  struct alignas(64) Range {
    int64_t next, end;
  };
  const int64_t count = workers < n ? workers : n, ranges = count < kMost ? count : kMost;
  Range range[kMost];
  for (int64_t i = 0; i < ranges; ++i) range[i] = {i * n / ranges, (i + 1) * n / ranges};
  parallel_rows(count, kGrainElements, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t turn = 0; turn < ranges; ++turn) {
        Range& from = range[(worker + turn) % ranges];
        for (;;) {
          const int64_t i = __atomic_fetch_add(&from.next, int64_t{1}, __ATOMIC_RELAXED);
          if (i >= from.end) break;
          item(i, worker);
        }
      }
    }
  });
}

// parallel_rows where some rows take longer than others: the ranges are short, each taken by the thread that is free.
template <class Body>
inline __attribute__((always_inline)) void parallel_shares(int64_t rows, int64_t elements_per_row, const Body& body) {
  constexpr int64_t kShares = 32;  // of a thread
  const int64_t threads = num_threads(), least = grain_of(elements_per_row), even = rows / (kShares * threads);
  const int64_t share = even > least ? even : least;
  each_item((rows + share - 1) / share, threads, [&](int64_t i, int64_t) __attribute__((always_inline)) {
    body(i * share, (i + 1) * share < rows ? (i + 1) * share : rows);
  });
}

}  // namespace
}  // namespace v4npu::cpu
