// Runs CPU kernels of one instruction set on odd sizes, for kernels.sh: every buffer is exactly as large as its
// contract says, and on the heap. Each kernel runs on one thread and twice on three, and must write the same bits.
// Prints a digest of what each has written. No Python, no torch: parallel_for is here, and scratch, as large as it is
// asked for.
#include "driver.h"
#include "parallel.h"
#include "scratch.h"

#include <thread>

namespace v4npu::cpu {

int num_threads() { return threads; }

// Ignores the grain, so that small sizes are divided too.
void parallel_for(int64_t n, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  std::vector<std::thread> team;
  for (int64_t i = 0; i < threads; ++i) {
    const int64_t begin = n * i / threads, end = n * (i + 1) / threads;
    if (begin < end) team.emplace_back(body, begin, end, context);
  }
  for (std::thread& thread : team) thread.join();
}

void* scratch(Scratch owner, int64_t bytes) {
  thread_local std::unique_ptr<void, void (*)(void*)> memory[2] = {{nullptr, &std::free}, {nullptr, &std::free}};
  void* made = nullptr;
  if (posix_memalign(&made, 64, static_cast<size_t>(bytes)) != 0) std::abort();
  std::memset(made, threads == 1 ? 0xff : 0, static_cast<size_t>(bytes));  // NaN or 0, neither of which may show
  memory[static_cast<int>(owner)].reset(made);
  return made;
}

}  // namespace v4npu::cpu

int main() {
  namespace test = v4npu::cpu::test;
  for (const v4npu::Dtype dtype : {v4npu::Dtype::kFloat32, v4npu::Dtype::kBfloat16}) {
    test::rows(dtype);
    test::products(dtype);
    test::paged(dtype);
  }
  for (const auto& [name, digest] : test::digests)
    std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(digest));
  return test::failed ? 1 : 0;
}
