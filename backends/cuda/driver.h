// The CUDA driver, opened when the first kernel is launched. Nothing of CUDA is included or linked: `_C` imports and
// runs on a machine without it.
#pragma once

#include <cstdint>
#include <string>

#include "torch/csrc/stable/tensor.h"
#include "v4npu/device_caps.h"

namespace v4npu::cuda {

struct Grid {
  int64_t x = 1, y = 1, z = 1;
};

// Where the kernels' files are: V4NPU_CUDA_KERNELS, or the folder "cuda" beside the extension. Empty if it is not
// there.
std::string kernel_folder();

// The device that holds `t`: name, multiprocessors, and why it cannot be used. Asked once per device.
const DeviceCaps& caps_of(const torch::stable::Tensor& t);

// Puts `kernel` of the file of `op` on the current stream of the device that holds `on`. Returns before it runs.
// Throws std::runtime_error with kernel, shape of the launch and the driver's text.
void launch(const char* op, const std::string& kernel, Grid grid, int threads, int64_t shared_bytes, const void* params,
            const torch::stable::Tensor& on);

}  // namespace v4npu::cuda
