#include "plan/ascend.h"

#include <algorithm>
#include <cctype>

namespace v4npu {

int ascend_architecture(const std::string& soc) {
  std::string name = soc;
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name.rfind("ascend910b", 0) == 0 || name.rfind("ascend910_93", 0) == 0) return 2201;
  return name.rfind("ascend950", 0) == 0 ? 3510 : 0;
}

std::string refuses_ascendc(const DeviceCaps& caps) {
  if (!caps.available) return "no npu that it can be launched on: " + caps.reason;
  if (ascend_architecture(caps.name) == 0)
    return "written for npus of the Ascend 910B, 910C and 950, not for " + caps.name;
  return "";
}

}  // namespace v4npu
