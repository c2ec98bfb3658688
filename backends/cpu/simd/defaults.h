// What simd.h promises for products, where an instruction set has no better way: a code's value costs no more than a
// multiple of it, and a sum of 16 lanes is one register, or the registers hold enough of them.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

constexpr float kE4m3Unit = 1;
V4NPU_INLINE f32x16 load_e4m3_units(const uint8_t* p) { return load_e4m3(p); }
V4NPU_INLINE bool has_e4m3_units(const uint8_t*, int64_t) { return true; }
struct f32x32 {
  f32x16 half[2];
};
V4NPU_INLINE f32x32 load_e2m1_scaled(const uint8_t* p, uint8_t scale) {
  const f32x16 factor = set1(e8m0_decode(scale));
  return {{load_e2m1(p) * factor, load_e2m1(p + kLanes / 2) * factor}};
}
V4NPU_INLINE f32x16 arrange_e2m1(f32x16 v) { return v; }
V4NPU_INLINE float reduce_e2m1(f32x16 v) { return reduce_add(v); }

using f32part = f32x16;
constexpr int kParts = 1;
V4NPU_INLINE f32part zero_part() { return zero(); }
V4NPU_INLINE f32part load_part(const float* p) { return load(p); }
V4NPU_INLINE void store_part(float* p, f32part v) { store(p, v); }
V4NPU_INLINE f32x16 join_parts(const f32part (&parts)[kParts]) { return parts[0]; }
V4NPU_INLINE void split_parts(f32x16 v, f32part (&parts)[kParts]) { parts[0] = v; }

}  // namespace v4npu::cpu::V4NPU_ISA
