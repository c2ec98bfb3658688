#include "runtime/heap.h"

#include <cstdlib>  // defines __GLIBC__ where it is
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace v4npu {
namespace {

constexpr int64_t kLargePage = int64_t{2} << 20;  // of systems with small pages of 4 KiB; elsewhere whole small ones
constexpr int64_t kMostKept = int64_t{1} << 30;
constexpr int64_t kMostMapped = int64_t{1} << 46;  // no machine has more

void* map_block([[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  const size_t size = static_cast<size_t>(bytes + kLargePage);
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t first = (begin + kLargePage - 1) & ~(uintptr_t{kLargePage} - 1), last = first + bytes;
  if (first > begin) munmap(mapped, first - begin);
  munmap(reinterpret_cast<void*>(last), begin + size - last);  // at least a page: more was mapped
  advise_large_pages(first, bytes);
  return reinterpret_cast<void*>(first);
#else
  return nullptr;
#endif
}

void unmap_block([[maybe_unused]] void* block, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  munmap(block, static_cast<size_t>(bytes));
#endif
}

class Blocks {
 public:
  void* take(int64_t bytes) {
    if (bytes > kMostMapped) return nullptr;
    const int64_t size = (bytes + kLargePage - 1) / kLargePage * kLargePage;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = kept_.lower_bound(size); found != kept_.end() && found->first <= size + size / 4) {
      const auto [got, block] = *found;
      kept_bytes_ -= got;
      kept_.erase(found);
      used_.emplace(block, got);
      return block;
    }
    void* block = map_block(size);
    if (block == nullptr) {
      drop(0);
      block = map_block(size);
    }
    if (block != nullptr) used_.emplace(block, size);
    return block;
  }

  void give_back(void* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(block);
    const int64_t bytes = found->second;
    used_.erase(found);
#if defined(MADV_FREE)
    madvise(block, static_cast<size_t>(bytes), MADV_FREE);
#endif
    kept_.emplace(bytes, block);
    kept_bytes_ += bytes;
    drop(kMostKept);
  }

  void release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    drop(0);
  }

 private:
  // The largest first, until no more bytes are kept.
  void drop(int64_t bytes) {
    while (kept_bytes_ > bytes) {
      const auto largest = std::prev(kept_.end());
      unmap_block(largest->second, largest->first);
      kept_bytes_ -= largest->first;
      kept_.erase(largest);
    }
  }

  std::mutex mutex_;
  std::unordered_map<void*, int64_t> used_;
  std::multimap<int64_t, void*> kept_;
  int64_t kept_bytes_ = 0;
};

// Never destroyed: tensors may outlive everything else.
Blocks& blocks() {
  static auto* const all = new Blocks;
  return *all;
}

}  // namespace

void* take_block(int64_t bytes) { return blocks().take(bytes); }
void give_back_block(void* block) { blocks().give_back(block); }

void advise_large_pages([[maybe_unused]] uintptr_t begin, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 65536;  // no system has larger small pages
  const uintptr_t first = (begin + kPage - 1) & ~(kPage - 1), last = (begin + bytes) & ~(kPage - 1);
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

void release_free_heap() {
  blocks().release();
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace v4npu
