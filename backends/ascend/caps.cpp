#include "plan/backend_caps.h"

#include <algorithm>
#include <cctype>

#include "acl.h"
#include "launch.h"
#include "plan/ascend.h"

namespace v4npu {

// Of the runtime that torch-npu has loaded. Whether a device is present is asked in v4npu/device.py, which may import
// the plugin.
DeviceCaps ascend_caps() {
  DeviceCaps caps;
  caps.kind = "npu";
  const ascend::Acl* acl = ascend::acl(&caps.reason);
  if (acl == nullptr) return caps;
  const char* name = acl->soc_name();
  caps.name = name == nullptr ? "" : name;
  std::transform(caps.name.begin(), caps.name.end(), caps.name.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  if (const int architecture = ascend_architecture(caps.name); architecture != 0)
    caps.features.push_back("dav_" + std::to_string(architecture));
  if (ascend::kernel_path() == nullptr)
    caps.reason = "no compiled kernels (v4npu build-kernels)";
  else if (!ascend::ready())
    caps.reason = "launching needs torch 2.13 or newer";
  caps.available = caps.reason.empty();
  return caps;
}

}  // namespace v4npu
