// Plans for Ascend NPUs: pure functions of the device, so that they are tested on invented ones.
#pragma once

#include <string>

#include "v4npu/device_caps.h"

namespace v4npu {

// The architecture of a chip by the vendor's name, in any case: 2201 of "Ascend910B1" or "ascend910_9391", 3510 of
// "ascend950dt"; 0 of one that no kernel here is written for.
int ascend_architecture(const std::string& soc);

// Why no kernel of ours runs there; empty if they do.
std::string refuses_ascendc(const DeviceCaps& caps);

}  // namespace v4npu
