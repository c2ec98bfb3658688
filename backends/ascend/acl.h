// The Ascend runtime that torch-npu has loaded, reached by name: no vendor header or library is needed to build or to
// import this extension. Written against the public interface; emulated in the tests, never run on a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace v4npu::ascend {

struct Acl {
  const char* (*soc_name)();
  int (*capability)(uint32_t device, int information, int64_t* value);
  int (*load)(const char* path, void* options, void** binary);
  int (*function)(void* binary, const char* name, void** function);
  int (*launch)(void* function, uint32_t num_blocks, void* stream, void* configuration, void* arguments, size_t bytes,
                void* place_holders, size_t num_place_holders);
  const char* (*message)();
};

// Null, with the reason, if torch-npu has loaded no runtime or one without a function that is needed.
const Acl* acl(std::string* reason = nullptr);

// Throws std::runtime_error with the call, its status and the runtime's own words.
void require_success(int status, const char* call);

// The path of the compiled kernels, V4NPU_ASCEND_KERNELS; null if there is none.
const char* kernel_path();

}  // namespace v4npu::ascend
