// Every native kernel, as plan() looks through them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "v4npu/device_caps.h"

namespace v4npu {

// One native kernel. A new variant is one entry in candidates.cpp, best first; the reference stands behind them all.
struct Candidate {
  const char* op;
  const char* device;                                     // DeviceCaps::kind
  const char* variant;                                    // suffix of the kernel file, or a vendor's operator
  const char* why;                                        // reason shown when chosen
  std::function<std::string(const DeviceCaps&)> refuses;  // empty = accepts
};

const std::vector<Candidate>& candidates();

// Every operator of schema.cpp, in its order.
const std::vector<std::string>& op_names();

}  // namespace v4npu
