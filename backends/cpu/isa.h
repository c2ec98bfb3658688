// Which instruction set the kernels of this process use: the best that plan/cpu_isa.cpp finds runnable, or the one that
// V4NPU_CPU_ISA names. Decided at the first use.
#pragma once

#include <string>

#include "v4npu/device_caps.h"

namespace v4npu::cpu {

enum class Isa { amx, avx512, avx512f, avx2, neon, portable };

// Throws std::invalid_argument when V4NPU_CPU_ISA names none that this machine can run.
Isa isa();

// What plans ask about, found out once.
const DeviceCaps& this_cpu();

// The name that the user asks for, checked against what `machine` can run; "" = none.
std::string requested_isa(const DeviceCaps& machine);

}  // namespace v4npu::cpu
