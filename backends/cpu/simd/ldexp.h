// ldexp where there is no instruction for it, by exp2i.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

// v * 2^n for integers n in [-252, 254]. Two factors, because 2^n itself may be subnormal or too large while the result
// is neither.
V4NPU_INLINE f32x16 ldexp(f32x16 v, f32x16 n) {
  const f32x16 half = round(n * set1(0.5f));
  return v * exp2i(half) * exp2i(n - half);
}

}  // namespace v4npu::cpu::V4NPU_ISA
