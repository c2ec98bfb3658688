// Plans for CUDA devices: pure functions of sizes and device, so that they are tested on invented GPUs. A choice that
// changes the order of a sum must not read the number of tokens: results do not change with the batch.
#pragma once

#include <cstdint>
#include <string>

#include "v4npu/device_caps.h"

namespace v4npu {

constexpr const char* kCudaKernels = "kernels";  // the feature of a build that has the kernels' files

// Major times ten plus minor of caps.name, such as 90 of "sm_90"; 0 if it is no such name.
int cuda_architecture(const DeviceCaps& caps);

// Why no kernel of ours runs there; empty if they do.
std::string refuses_cuda(const DeviceCaps& caps);

}  // namespace v4npu
