// fp4_linear on the CPU: gemm.h over e2m1 rows; each scale is applied as its 32 values are decoded.
#include "v4npu/ops/fp4_linear.h"

#include "gemm.h"

namespace v4npu::cpu::V4NPU_ISA {

void fp4_linear(const Fp4LinearParams& p) { quantised_linear(p, E2m1Rows{p.weight, p.weight_scale, p.k}); }

}  // namespace v4npu::cpu::V4NPU_ISA
