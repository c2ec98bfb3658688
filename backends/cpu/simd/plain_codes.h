// Codes as simd.h promises them for products, where an instruction set has no better way: a code's value costs no more
// than a multiple of it.
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
template <int N>
V4NPU_INLINE void reduce_e2m1_each(const f32x16 (&v)[N], float* out) {
  reduce_add_each(v, out);
}

}  // namespace v4npu::cpu::V4NPU_ISA
