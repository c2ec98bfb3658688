// What simd.h promises for products, where an instruction set has no better way: a code's value costs no more than a
// multiple of it, and a sum of 16 lanes is one register, or the registers hold enough of them.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

constexpr float kE4m3Unit = 1;
V4NPU_INLINE f32x16 load_e4m3_units(const uint8_t* p) { return load_e4m3(p); }
V4NPU_INLINE bool has_e4m3_units(const uint8_t*, int64_t) { return true; }
struct E2m1Scales {
  const uint8_t* p;
};
V4NPU_INLINE E2m1Scales load_e2m1_scales(const uint8_t* p) { return {p}; }
V4NPU_INLINE f32x16 load_e2m1_scaled(const uint8_t* p, bool upper, E2m1Scales scales, int group) {
  return load_e2m1(upper ? p + 8 : p) * set1(bits_float(uint32_t{scales.p[group]} << 23));
}

using f32part = f32x16;
constexpr int kParts = 1;
V4NPU_INLINE f32part zero_part() { return zero(); }
V4NPU_INLINE f32part load_part(const float* p) { return load(p); }
V4NPU_INLINE f32x16 join_parts(const f32part (&parts)[kParts]) { return parts[0]; }

}  // namespace v4npu::cpu::V4NPU_ISA
