#include "scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace v4npu::cpu {
namespace {

constexpr int64_t kLine = 64;

struct Free {
  void operator()(void* p) const { std::free(p); }
};

struct Buffer {
  std::unique_ptr<void, Free> memory;
  int64_t size = 0;
};

thread_local Buffer buffers[2];

}  // namespace

void* scratch(Scratch owner, int64_t bytes) {
  Buffer& buffer = buffers[static_cast<int>(owner)];
  if (bytes > buffer.size || !buffer.memory) {
    const int64_t size = (bytes / kLine + 1) * kLine;
    buffer.memory.reset();
    buffer.size = 0;
    buffer.memory.reset(std::aligned_alloc(kLine, static_cast<size_t>(size)));
    if (!buffer.memory) throw std::bad_alloc();
    buffer.size = size;
  }
  return buffer.memory.get();
}

}  // namespace v4npu::cpu
