// Each backend says what its device can do, without opening a driver.
#pragma once

#include "v4npu/device_caps.h"

namespace v4npu {

DeviceCaps cpu_caps();
DeviceCaps cuda_caps();
DeviceCaps ascend_caps();

}  // namespace v4npu
