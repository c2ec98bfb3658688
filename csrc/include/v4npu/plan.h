// Which kernel serves an operator on a device, and why. Pure: same op and caps, same plan.
#pragma once

#include <string>

#include "v4npu/device_caps.h"

namespace v4npu {

struct Plan {
  std::string variant;  // "reference", or the suffix of a native kernel
  std::string reason;   // why this one, and why none before it
};

// Throws std::invalid_argument for an op that schema.cpp does not declare.
Plan plan(const std::string& op, const DeviceCaps& caps);

}  // namespace v4npu
