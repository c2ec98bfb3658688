// The parts of an f32x16 where it is one register, or the registers hold enough of them.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

using f32part = f32x16;
constexpr int kParts = 1;
V4NPU_INLINE f32part zero_part() { return zero(); }
V4NPU_INLINE f32part load_part(const float* p) { return load(p); }
V4NPU_INLINE void store_part(float* p, f32part v) { store(p, v); }
V4NPU_INLINE f32x16 join_parts(const f32part (&parts)[kParts]) { return parts[0]; }
V4NPU_INLINE void split_parts(f32x16 v, f32part (&parts)[kParts]) { parts[0] = v; }

}  // namespace v4npu::cpu::V4NPU_ISA
