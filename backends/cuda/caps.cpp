#include "plan/backend_caps.h"

#include "driver.h"
#include "plan/gpu.h"

namespace v4npu {

// Which device is present, if any, is asked in v4npu/device.py, where torch knows it.
DeviceCaps cuda_caps() {
  DeviceCaps caps;
  caps.kind = "cuda";
  if (!cuda::kernel_folder().empty()) caps.features.emplace_back(kCudaKernels);
  caps.reason = "asked of torch";
  return caps;
}

}  // namespace v4npu
