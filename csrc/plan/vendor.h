// Operators of torch-npu and of vendors' packages that do what an operator of ours does, found by name in torch's
// registry. Those that keep the contract stand behind our own kernel on an NPU; of the others it says why they do not.
#pragma once

#include <string>
#include <vector>

#include "v4npu/device_caps.h"

namespace v4npu {

struct VendorOperator {
  const char* op;
  const char* name;    // as torch knows it
  const char* schema;  // of torch-npu 2.13.0, without the name; "" if its package is on no index
  bool used;
  const char* why;
};

// By operator, best first.
const std::vector<VendorOperator>& vendor_operators();

// What the device has registered (DeviceCaps::features) that could do `op` but is not used, each with the reason.
std::string unused_vendor_operators(const std::string& op, const DeviceCaps& caps);

}  // namespace v4npu
