// The one emulated device: which chip it stands for.
#pragma once

#include "../emulation/skus.h"

namespace v4npu::runtime {

// The chip that V4NPU_EMULATE_SOC names (v4npu/emulate.py sets it). Throws Error for one that skus.h does not have.
__attribute__((visibility("default"))) const emulation::Sku& sku();

}  // namespace v4npu::runtime
