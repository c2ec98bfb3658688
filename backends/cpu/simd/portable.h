// simd.h for any machine: plain loops, which a compiler turns into what its baseline has. fma rounds twice here:
// without the instruction, rounding once is a library call per lane. Only this instruction set differs so.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

struct f32x16 {
  float lane[kLanes];
};

constexpr int kRegisters = 4;  // f32x16 that the machine's registers hold

// A vector whose lane i is `expression`.
#define V4NPU_EACH(expression)                                 \
  f32x16 out;                                                  \
  for (int i = 0; i < kLanes; ++i) out.lane[i] = (expression); \
  return out

V4NPU_INLINE f32x16 set1(float x) { V4NPU_EACH(x); }
V4NPU_INLINE f32x16 zero() { return set1(0.0f); }

V4NPU_INLINE f32x16 load(const float* p) { V4NPU_EACH(p[i]); }
V4NPU_INLINE f32x16 load(const bf16* p) { V4NPU_EACH(bf16_decode(p[i].bits)); }
V4NPU_INLINE f32x16 load_partial(const float* p, int n) { V4NPU_EACH(i < n ? p[i] : 0.0f); }
V4NPU_INLINE f32x16 load_partial(const bf16* p, int n) { V4NPU_EACH(i < n ? bf16_decode(p[i].bits) : 0.0f); }

V4NPU_INLINE void store_partial(float* p, f32x16 v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v.lane[i];
}
V4NPU_INLINE void store_partial(bf16* p, f32x16 v, int n) {
  for (int i = 0; i < n; ++i) p[i].bits = bf16_encode(v.lane[i]);
}
V4NPU_INLINE void store(float* p, f32x16 v) { store_partial(p, v, kLanes); }
V4NPU_INLINE void store(bf16* p, f32x16 v) { store_partial(p, v, kLanes); }

V4NPU_INLINE f32x16 operator+(f32x16 a, f32x16 b) { V4NPU_EACH(a.lane[i] + b.lane[i]); }
V4NPU_INLINE f32x16 operator-(f32x16 a, f32x16 b) { V4NPU_EACH(a.lane[i] - b.lane[i]); }
V4NPU_INLINE f32x16 operator*(f32x16 a, f32x16 b) { V4NPU_EACH(a.lane[i] * b.lane[i]); }
V4NPU_INLINE f32x16 operator/(f32x16 a, f32x16 b) { V4NPU_EACH(a.lane[i] / b.lane[i]); }
V4NPU_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { V4NPU_EACH(a.lane[i] * b.lane[i] + c.lane[i]); }
V4NPU_INLINE f32x16 swap_pairs(f32x16 v) { V4NPU_EACH(v.lane[i ^ 1]); }
V4NPU_INLINE f32x16 max(f32x16 a, f32x16 b) { V4NPU_EACH(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
V4NPU_INLINE f32x16 min(f32x16 a, f32x16 b) { V4NPU_EACH(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }

V4NPU_INLINE float first_lane(f32x16 v) { return v.lane[0]; }
V4NPU_INLINE f32x16 sqrt(f32x16 v) { V4NPU_EACH(__builtin_sqrtf(v.lane[i])); }

// Lane i takes lane i ^ W.
template <int W>
V4NPU_INLINE f32x16 swap_lanes(f32x16 v) {
  V4NPU_EACH(v.lane[i ^ W]);
}

// v[i] lane j <-> v[j] lane i.
V4NPU_INLINE void transpose(f32x16 (&v)[16]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float x = v[i].lane[j];
      v[i].lane[j] = v[j].lane[i];
      v[j].lane[i] = x;
    }
  }
}

V4NPU_INLINE uint32_t above(f32x16 v, float x) {
  uint32_t out = 0;
  for (int i = 0; i < kLanes; ++i) out |= uint32_t{!(v.lane[i] <= x)} << i;
  return out;
}

V4NPU_INLINE f32x16 keep_bits(f32x16 v, uint32_t mask) { V4NPU_EACH(bits_float(float_bits(v.lane[i]) & mask)); }
V4NPU_INLINE f32x16 join_bits(f32x16 a, f32x16 b) {
  V4NPU_EACH(bits_float(float_bits(a.lane[i]) | float_bits(b.lane[i])));
}
V4NPU_INLINE f32x16 max_bits(f32x16 a, f32x16 b) {
  V4NPU_EACH(float_bits(a.lane[i]) > float_bits(b.lane[i]) ? a.lane[i] : b.lane[i]);
}

// To the nearest integer, ties to even; |v| below 2^22; a zero may lose its sign. Adding 1.5 * 2^23 leaves no bit for a
// fraction.
V4NPU_INLINE f32x16 round(f32x16 v) { V4NPU_EACH((v.lane[i] + 0x1.8p23f) - 0x1.8p23f); }

// 2^v for integers v in [-126, 127]; NaN gives anything.
V4NPU_INLINE f32x16 exp2i(f32x16 v) { V4NPU_EACH(bits_float((float_bits(v.lane[i] + 0x1.8p23f) - 0x4b3fff81u) << 23)); }

// Lane i with lane i + 8, then 4, 2, 1.
V4NPU_INLINE float reduce_add(f32x16 v) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) v.lane[i] += v.lane[i + width];
  }
  return v.lane[0];
}
V4NPU_INLINE float reduce_max(f32x16 v) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) v.lane[i] = v.lane[i] > v.lane[i + width] ? v.lane[i] : v.lane[i + width];
  }
  return v.lane[0];
}

V4NPU_INLINE f32x16 load_e4m3(const uint8_t* p) { V4NPU_EACH(e4m3_decode(p[i])); }
V4NPU_INLINE f32x16 load_e2m1(const uint8_t* p) { V4NPU_EACH(e2m1_decode(e2m1_unpack(p[i / 2], i))); }

V4NPU_INLINE void store_e4m3_exact(uint8_t* p, f32x16 v) {
  for (int i = 0; i < kLanes; ++i) p[i] = e4m3_encode(v.lane[i]);
}
V4NPU_INLINE void store_e2m1_exact(uint8_t* p, f32x16 v) {
  for (int i = 0; i < kLanes; i += 2) p[i / 2] = e2m1_pack(e2m1_encode(v.lane[i]), e2m1_encode(v.lane[i + 1]));
}

#undef V4NPU_EACH

}  // namespace v4npu::cpu::V4NPU_ISA

#include "defaults.h"
#include "no_bf16_dot.h"
