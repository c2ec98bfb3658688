// What the backends define: each says what its device can do, without opening a driver (backends/<device>/caps.cpp).
#pragma once

#include "v4npu/device_caps.h"

namespace v4npu {

DeviceCaps cpu_caps();
DeviceCaps cuda_caps();
DeviceCaps ascend_caps();

// Replaces the choice that V4NPU_CPU_ISA makes, so that a test can run every instruction set in one process; "" = the
// best. Throws std::invalid_argument for one that this machine cannot run.
void use_cpu_isa(const std::string& name);

}  // namespace v4npu
