#include "../caps.h"

namespace v4npu {

// Whether a device is present is asked in v4npu/device.py, which may import the vendor's torch plugin.
DeviceCaps ascend_caps() {
  DeviceCaps caps;
  caps.kind = "npu";
  caps.reason = "no native Ascend kernel is built in";
  return caps;
}

}  // namespace v4npu
