// Where a code's value costs no more than a multiple of it: the names that simd.h promises for products.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

constexpr float kE4m3Unit = 1, kE2m1Unit = 1;
V4NPU_INLINE f32x16 load_e4m3_units(const uint8_t* p) { return load_e4m3(p); }
V4NPU_INLINE f32x16 load_e2m1_units(const uint8_t* p) { return load_e2m1(p); }

}  // namespace v4npu::cpu::V4NPU_ISA
