// Allocation and copies. New memory is filled with ones, which read as NaN: what nobody wrote is not a lucky zero.
#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "device.h"
#include "error.h"
#include "stream.h"

namespace v4npu::runtime {
namespace {

constexpr size_t kAlignment = 512;  // aclrtMalloc promises 64 bytes; a chip's copies are fastest at 512

std::mutex mutex;
int64_t used = 0;

// Never destroyed: the workers of streams may outlive static objects.
std::map<const char*, size_t>& device_memory() {
  static auto* blocks = new std::map<const char*, size_t>;
  return *blocks;
}
std::map<const char*, size_t>& pinned_memory() {
  static auto* blocks = new std::map<const char*, size_t>;
  return *blocks;
}

Allocation find(const std::map<const char*, size_t>& blocks, const void* address) {
  const std::lock_guard lock(mutex);
  auto after = blocks.upper_bound(static_cast<const char*>(address));
  if (after == blocks.begin()) return {nullptr, 0};
  --after;
  const bool inside = static_cast<const char*>(address) < after->first + after->second;
  return inside ? Allocation{const_cast<char*>(after->first), after->second} : Allocation{nullptr, 0};
}

void* allocate(size_t size) {
  const size_t bytes = (size + 2 * kAlignment - 1) / kAlignment * kAlignment;  // the documented padding, and more
  const std::lock_guard lock(mutex);
  require(used + static_cast<int64_t>(bytes) <= total_memory(),
          std::to_string(size) + " bytes asked for, " + std::to_string(total_memory() - used) + " left",
          ACL_ERROR_RT_MEMORY_ALLOCATION);
  void* memory = std::aligned_alloc(kAlignment, bytes);
  require(memory != nullptr, "the host has no " + std::to_string(bytes) + " bytes left",
          ACL_ERROR_RT_MEMORY_ALLOCATION);
  std::memset(memory, 0xFF, bytes);
  device_memory()[static_cast<char*>(memory)] = bytes;
  used += static_cast<int64_t>(bytes);
  return memory;
}

bool on_device(const void* address) { return allocation_of(address).bytes != 0; }

// A copy as a task; both ends are checked when it is asked for.
std::function<void()> copy(void* to, size_t room, const void* from, size_t count, int kind) {
  require(count <= room, std::to_string(count) + " bytes do not fit into " + std::to_string(room));
  const bool default_kind = kind == ACL_MEMCPY_DEFAULT;
  const bool device_to =
      default_kind ? on_device(to) : kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  const bool device_from =
      default_kind ? on_device(from) : kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  if (device_to) require_device(to, count, "destination");
  if (device_from) require_device(from, count, "source");
  return [=] { std::memmove(to, from, count); };
}

std::function<void()> set(void* to, size_t room, int32_t value, size_t count) {
  require(count <= room, std::to_string(count) + " bytes do not fit into " + std::to_string(room));
  require_device(to, count, "destination");
  return [=] { std::memset(to, value, count); };
}

}  // namespace

int64_t total_memory() { return static_cast<int64_t>(sku().memory_gib) << 30; }

Allocation allocation_of(const void* address) { return find(device_memory(), address); }

void require_device(const void* address, size_t bytes, const char* what) {
  if (bytes == 0) return;
  const Allocation block = allocation_of(address);
  require(block.bytes != 0, std::string(what) + " is not memory of the device");
  const size_t left = block.bytes - static_cast<size_t>(static_cast<const char*>(address) - block.begin);
  require(bytes <= left, std::string(what) + " ends " + std::to_string(bytes - left) + " bytes behind its allocation");
}

}  // namespace v4npu::runtime

using namespace v4npu::runtime;

ACL_API Status aclrtMalloc(void** pointer, size_t size, int) {
  return guarded("aclrtMalloc", [&] {
    require(size > 0, "size must not be 0");
    *pointer = allocate(size);
  });
}
ACL_API Status aclrtMallocAlign32(void** pointer, size_t size, int policy) {
  return aclrtMalloc(pointer, size, policy);
}

ACL_API Status aclrtFree(void* pointer) {
  return guarded("aclrtFree", [&] {
    const std::lock_guard lock(mutex);
    const auto found = device_memory().find(static_cast<char*>(pointer));
    require(found != device_memory().end(), "the pointer is not one that aclrtMalloc gave");
    used -= static_cast<int64_t>(found->second);
    device_memory().erase(found);
    std::free(pointer);
  });
}

ACL_API Status aclrtMallocHost(void** pointer, size_t size) {
  return guarded("aclrtMallocHost", [&] {
    *pointer = std::aligned_alloc(kAlignment, (size + kAlignment) / kAlignment * kAlignment);
    require(*pointer != nullptr, "no memory left", ACL_ERROR_RT_MEMORY_ALLOCATION);
    const std::lock_guard lock(mutex);
    pinned_memory()[static_cast<char*>(*pointer)] = size;
  });
}
ACL_API Status aclrtFreeHost(void* pointer) {
  return guarded("aclrtFreeHost", [&] {
    const std::lock_guard lock(mutex);
    require(pinned_memory().erase(static_cast<char*>(pointer)) == 1,
            "the pointer is not one that aclrtMallocHost gave");
    std::free(pointer);
  });
}

ACL_API Status aclrtMemcpy(void* to, size_t room, const void* from, size_t count, int kind) {
  return guarded("aclrtMemcpy", [&] {
    require_no_capture("a copy");
    copy(to, room, from, count, kind)();
  });
}
ACL_API Status aclrtMemcpyAsync(void* to, size_t room, const void* from, size_t count, int kind, StreamHandle stream) {
  return guarded("aclrtMemcpyAsync", [&] { enqueue(stream, copy(to, room, from, count, kind)); });
}
ACL_API Status aclrtMemset(void* to, size_t room, int32_t value, size_t count) {
  return guarded("aclrtMemset", [&] {
    require_no_capture("a fill");
    set(to, room, value, count)();
  });
}
ACL_API Status aclrtMemsetAsync(void* to, size_t room, int32_t value, size_t count, StreamHandle stream) {
  return guarded("aclrtMemsetAsync", [&] { enqueue(stream, set(to, room, value, count)); });
}

ACL_API Status aclrtGetMemInfo(int, size_t* free, size_t* total) {
  return guarded("aclrtGetMemInfo", [&] {
    *total = static_cast<size_t>(total_memory());
    const std::lock_guard lock(mutex);
    *free = *total - static_cast<size_t>(used);
  });
}

ACL_API Status aclrtPointerGetAttributes(const void* pointer, PointerAttributes* attributes) {
  return guarded("aclrtPointerGetAttributes", [&] {
    *attributes = {};
    const bool device = on_device(pointer), pinned = find(pinned_memory(), pointer).bytes != 0;
    attributes->location = device   ? ACL_MEM_LOCATION_TYPE_DEVICE
                           : pinned ? ACL_MEM_LOCATION_TYPE_HOST
                                    : ACL_MEM_LOCATION_TYPE_UNREGISTERED;
  });
}
