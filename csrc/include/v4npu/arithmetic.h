// How many pieces make a whole: for launchers, plans and kernels.
#pragma once

#include <cstdint>

#include "v4npu/host_device.h"

namespace v4npu {

V4NPU_HD constexpr int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }
V4NPU_HD constexpr int64_t round_up(int64_t n, int64_t multiple) { return ceil_div(n, multiple) * multiple; }

}  // namespace v4npu
