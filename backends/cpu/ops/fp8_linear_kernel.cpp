// fp8_linear on the CPU: gemm.h over e4m3 rows; each scale is applied as its 128 values are decoded.
#include "v4npu/ops/fp8_linear.h"

#include "gemm.h"

namespace v4npu::cpu::V4NPU_ISA {

void fp8_linear(const Fp8LinearParams& p) {
  quantised_linear(p, E4m3Rows{p.weight, p.weight_scale, p.k, /*rows_per_scale=*/128});
}

}  // namespace v4npu::cpu::V4NPU_ISA
