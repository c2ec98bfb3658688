#include "../caps.h"

namespace v4npu {

// Whether a device is present is asked in v4npu/device.py, which may import the vendor's torch plugin.
DeviceCaps cuda_caps() {
  DeviceCaps caps;
  caps.kind = "cuda";
  caps.reason = "no native CUDA kernel is built in";
  return caps;
}

}  // namespace v4npu
