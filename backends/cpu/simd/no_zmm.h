// Where registers are narrower than 16 lanes: what AVX-512 has an instruction for, and sums that it adds side by side.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

// v * 2^n for integers n in [-252, 254]. Two factors, because 2^n itself may be subnormal or too large while the result
// is neither.
V4NPU_INLINE f32x16 ldexp(f32x16 v, f32x16 n) {
  const f32x16 half = round(n * set1(0.5f));
  return v * exp2i(half) * exp2i(n - half);
}

template <int N>
V4NPU_INLINE void reduce_add_each(const f32x16 (&v)[N], float* out) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) out[i] = reduce_add(v[i]);
}

}  // namespace v4npu::cpu::V4NPU_ISA
