// The instruction sets that CPU kernels are compiled for: what each needs, best first.
#pragma once

#include <string>
#include <vector>

#include "v4npu/device_caps.h"

namespace v4npu {

struct CpuIsa {
  const char* name;  // the namespace of its kernels, v4npu::cpu::<name>
  std::string (*refuses)(const DeviceCaps&);
};

const std::vector<CpuIsa>& cpu_isas();

// Those that `caps` can run, best first; never empty.
std::vector<std::string> runnable_cpu_isas(const DeviceCaps& caps);

}  // namespace v4npu
