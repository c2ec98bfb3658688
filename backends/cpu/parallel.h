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

// body(begin, end) over ranges of whole rows. A kernel reduces a row within one call of body, so that neither the
// number of threads nor the number of rows can change a result.
template <class Body>
inline __attribute__((always_inline)) void parallel_rows(int64_t rows, int64_t elements_per_row, const Body& body) {
  const int64_t per_row = elements_per_row > 0 ? elements_per_row : 1;
  const int64_t grain = per_row < kGrainElements ? kGrainElements / per_row : 1;
  parallel_for(
      rows, grain, [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<Body*>(&body));
}

}  // namespace
}  // namespace v4npu::cpu
