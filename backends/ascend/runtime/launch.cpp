// Kernels: a "device binary" is a shared library of the host that holds them compiled for the emulated chip
// (v4npu/emulated_kernels.py makes it). They are found by name and run on a stream.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "device.h"
#include "error.h"
#include "memory.h"
#include "stream.h"

namespace v4npu::runtime {
namespace {

using AllocationOf = void (*)(const void* address, uint8_t** begin, int64_t* bytes);
using Entry = const char* (*)(const char* sku, int64_t blocks, const char* packed, int64_t bytes, AllocationOf);

struct Function {
  std::string name;
  Entry entry;
};
struct Binary {
  void* library;
  std::map<std::string, std::unique_ptr<Function>> functions;
};

std::mutex mutex;

void find_allocation(const void* address, uint8_t** begin, int64_t* bytes) {
  const Allocation block = allocation_of(address);
  *begin = reinterpret_cast<uint8_t*>(block.begin);
  *bytes = static_cast<int64_t>(block.bytes);
}

void load(const char* path, void** handle) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw Error(ACL_ERROR_RT_FILE_OPEN, std::string("not a kernel binary for the emulated chip: ") + dlerror());
  *handle = new Binary{library, {}};
}

// The arguments are copied: the caller may reuse their memory.
void launch(void* function, uint32_t blocks, StreamHandle stream, const void* arguments, size_t bytes) {
  require(function != nullptr, "function must not be null");
  require(blocks > 0, "the number of blocks must not be 0");
  const auto* kernel = static_cast<const Function*>(function);
  const auto* from = static_cast<const char*>(arguments);
  enqueue(stream, [kernel, blocks, packed = std::vector<char>(from, from + bytes)] {
    const std::string name(sku().name);
    const char* fault =
        kernel->entry(name.c_str(), blocks, packed.data(), static_cast<int64_t>(packed.size()), &find_allocation);
    if (fault != nullptr) throw Error(ACL_ERROR_RT_AICORE_EXCEPTION, fault);
  });
}

}  // namespace
}  // namespace v4npu::runtime

using namespace v4npu::runtime;

ACL_API Status aclrtBinaryLoadFromFile(const char* path, const void*, void** binary) {
  return guarded("aclrtBinaryLoadFromFile", [&] { load(path, binary); });
}

ACL_API Status aclrtBinaryLoadFromData(const void* data, size_t length, const void*, void** binary) {
  return guarded("aclrtBinaryLoadFromData", [&] {
    const int file = memfd_create("ascend kernels", MFD_CLOEXEC);
    require(file >= 0 && write(file, data, length) == static_cast<ssize_t>(length), "no memory for the binary");
    load(("/proc/self/fd/" + std::to_string(file)).c_str(), binary);
    close(file);
  });
}

ACL_API Status aclrtBinaryUnLoad(void* binary) {
  return guarded("aclrtBinaryUnLoad", [&] {
    synchronize_all();
    const std::unique_ptr<Binary> owned(static_cast<Binary*>(binary));
    dlclose(owned->library);
  });
}

ACL_API Status aclrtBinaryGetFunction(void* binary, const char* name, void** function) {
  return guarded("aclrtBinaryGetFunction", [&] {
    auto* owner = static_cast<Binary*>(binary);
    const std::lock_guard lock(mutex);
    std::unique_ptr<Function>& found = owner->functions[name];
    if (found == nullptr) {
      auto entry = reinterpret_cast<Entry>(dlsym(owner->library, ("launch_" + std::string(name)).c_str()));
      require(entry != nullptr, std::string("the binary has no kernel ") + name);
      found = std::make_unique<Function>(Function{name, entry});
    }
    *function = found.get();
  });
}

ACL_API Status aclrtLaunchKernel(void* function, uint32_t blocks, const void* arguments, size_t bytes,
                                 StreamHandle stream) {
  return guarded("aclrtLaunchKernel", [&] { launch(function, blocks, stream, arguments, bytes); });
}

// No attribute of the configuration changes what is computed.
ACL_API Status aclrtLaunchKernelWithHostArgs(void* function, uint32_t blocks, StreamHandle stream, const void*,
                                             void* arguments, size_t bytes, PlaceHolder*, size_t num_place_holders) {
  return guarded("aclrtLaunchKernelWithHostArgs", [&] {
    require(num_place_holders == 0, "place holders are not emulated", ACL_ERROR_RT_FEATURE_NOT_SUPPORT);
    launch(function, blocks, stream, arguments, bytes);
  });
}
