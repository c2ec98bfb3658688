// simd.h on NEON, the baseline of every aarch64: four registers. Tails go through the stack.
#pragma once

#include <arm_neon.h>

namespace v4npu::cpu::V4NPU_ISA {

struct f32x16 {
  float32x4_t v[4];
};

constexpr int kRegisters = 8;  // f32x16 that the machine's registers hold

// A vector whose register i is `expression`.
#define V4NPU_EACH(expression)                         \
  f32x16 out;                                          \
  for (int i = 0; i < 4; ++i) out.v[i] = (expression); \
  return out

V4NPU_INLINE f32x16 set1(float x) { V4NPU_EACH(vdupq_n_f32(x)); }
V4NPU_INLINE f32x16 zero() { return set1(0.0f); }

V4NPU_INLINE float32x4_t from_bf16(uint16x4_t halves) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(halves), 16));
}
V4NPU_INLINE uint16x4_t to_bf16(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
  return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, vdupq_n_u32(0x7fc0)));
}

V4NPU_INLINE f32x16 load(const float* p) { V4NPU_EACH(vld1q_f32(p + 4 * i)); }
V4NPU_INLINE f32x16 load(const bf16* p) {
  const auto* bits = reinterpret_cast<const uint16_t*>(p);
  V4NPU_EACH(from_bf16(vld1_u16(bits + 4 * i)));
}
V4NPU_INLINE void store(float* p, f32x16 v) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v.v[i]);
}
V4NPU_INLINE void store(bf16* p, f32x16 v) {
  for (int i = 0; i < 4; ++i) vst1_u16(reinterpret_cast<uint16_t*>(p) + 4 * i, to_bf16(v.v[i]));
}
template <class T>
V4NPU_INLINE f32x16 load_partial(const T* p, int n) {
  T all[kLanes] = {};
  std::memcpy(all, p, static_cast<size_t>(n) * sizeof(T));
  return load(all);
}
template <class T>
V4NPU_INLINE void store_partial(T* p, f32x16 v, int n) {
  T all[kLanes];
  store(all, v);
  std::memcpy(p, all, static_cast<size_t>(n) * sizeof(T));
}

V4NPU_INLINE f32x16 operator+(f32x16 a, f32x16 b) { V4NPU_EACH(vaddq_f32(a.v[i], b.v[i])); }
V4NPU_INLINE f32x16 operator-(f32x16 a, f32x16 b) { V4NPU_EACH(vsubq_f32(a.v[i], b.v[i])); }
V4NPU_INLINE f32x16 operator*(f32x16 a, f32x16 b) { V4NPU_EACH(vmulq_f32(a.v[i], b.v[i])); }
V4NPU_INLINE f32x16 operator/(f32x16 a, f32x16 b) { V4NPU_EACH(vdivq_f32(a.v[i], b.v[i])); }
V4NPU_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { V4NPU_EACH(vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
V4NPU_INLINE f32x16 swap_pairs(f32x16 v) { V4NPU_EACH(vrev64q_f32(v.v[i])); }
// By comparison: NEON's own maximum returns a NaN of either side.
V4NPU_INLINE f32x16 max(f32x16 a, f32x16 b) { V4NPU_EACH(vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
V4NPU_INLINE f32x16 min(f32x16 a, f32x16 b) { V4NPU_EACH(vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }

V4NPU_INLINE float first_lane(f32x16 v) { return vgetq_lane_f32(v.v[0], 0); }
V4NPU_INLINE f32x16 sqrt(f32x16 v) { V4NPU_EACH(vsqrtq_f32(v.v[i])); }

// Lane i takes lane i ^ W.
template <int W>
V4NPU_INLINE f32x16 swap_lanes(f32x16 v) {
  if constexpr (W == 1) return swap_pairs(v);
  V4NPU_EACH(W == 2 ? vextq_f32(v.v[i], v.v[i], 2) : v.v[i ^ (W / 4)]);
}

// v[i] lane j <-> v[j] lane i: a store that interleaves four registers turns 4 rows of 4.
V4NPU_INLINE void transpose(f32x16 (&v)[16]) {
  float turned[kLanes * kLanes];
  for (int row = 0; row < 4; ++row) {
    for (int i = 0; i < 4; ++i) {
      float four[16];
      vst4q_f32(four, {{v[4 * row].v[i], v[4 * row + 1].v[i], v[4 * row + 2].v[i], v[4 * row + 3].v[i]}});
      for (int j = 0; j < 4; ++j) vst1q_f32(turned + (4 * i + j) * kLanes + 4 * row, vld1q_f32(four + 4 * j));
    }
  }
  for (int i = 0; i < kLanes; ++i) v[i] = load(turned + i * kLanes);
}

V4NPU_INLINE uint32_t above(f32x16 v, float x) {
  static const uint32_t kBits[4] = {1, 2, 4, 8};
  const uint32x4_t bits = vld1q_u32(kBits);
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) out |= vaddvq_u32(vbicq_u32(bits, vcleq_f32(v.v[i], vdupq_n_f32(x)))) << 4 * i;
  return out;
}

V4NPU_INLINE f32x16 keep_bits(f32x16 v, uint32_t mask) {
  V4NPU_EACH(vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v.v[i]), vdupq_n_u32(mask))));
}
V4NPU_INLINE f32x16 join_bits(f32x16 a, f32x16 b) {
  V4NPU_EACH(vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a.v[i]), vreinterpretq_u32_f32(b.v[i]))));
}
V4NPU_INLINE f32x16 max_bits(f32x16 a, f32x16 b) {
  V4NPU_EACH(vreinterpretq_f32_u32(vmaxq_u32(vreinterpretq_u32_f32(a.v[i]), vreinterpretq_u32_f32(b.v[i]))));
}

// To the nearest integer, ties to even; |v| below 2^22; a zero may lose its sign.
V4NPU_INLINE f32x16 round(f32x16 v) { V4NPU_EACH(vrndnq_f32(v.v[i])); }

// 2^v for integers v in [-126, 127]; NaN gives anything.
V4NPU_INLINE f32x16 exp2i(f32x16 v) {
  V4NPU_EACH(vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(v.v[i]), vdupq_n_s32(127)), 23)));
}

// Lane i with lane i + 8, then 4, 2, 1.
V4NPU_INLINE float reduce_add(f32x16 v) {
  const float32x4_t four = vaddq_f32(vaddq_f32(v.v[0], v.v[2]), vaddq_f32(v.v[1], v.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
V4NPU_INLINE float reduce_max(f32x16 v) {
  const float32x4_t four = vmaxq_f32(vmaxq_f32(v.v[0], v.v[2]), vmaxq_f32(v.v[1], v.v[3]));
  const float32x2_t two = vmax_f32(vget_low_f32(four), vget_high_f32(four));
  const float a = vget_lane_f32(two, 0), b = vget_lane_f32(two, 1);
  return a > b ? a : b;
}

// The code, shifted into a float16, is 2^-8 of its value, subnormals included.
V4NPU_INLINE f32x16 load_e4m3(const uint8_t* p) {
  const uint8x16_t codes = vld1q_u8(p);
  const uint16x8_t wide[2] = {vmovl_u8(vget_low_u8(codes)), vmovl_u8(vget_high_u8(codes))};
  f32x16 out;
  for (int i = 0; i < 2; ++i) {
    const uint16x8_t low = vdupq_n_u16(0x7f), magnitude = vandq_u16(wide[i], low);
    const uint16x8_t sign = vshlq_n_u16(vbicq_u16(wide[i], low), 8);
    const uint16x8_t finite = vorrq_u16(sign, vshlq_n_u16(magnitude, 7));
    const uint16x8_t nan = vorrq_u16(sign, vdupq_n_u16(0x7e00));
    const float16x8_t half = vreinterpretq_f16_u16(vbslq_u16(vceqq_u16(magnitude, low), nan, finite));
    out.v[2 * i] = vmulq_n_f32(vcvt_f32_f16(vget_low_f16(half)), 256.0f);
    out.v[2 * i + 1] = vmulq_n_f32(vcvt_f32_f16(vget_high_f16(half)), 256.0f);
  }
  return out;
}

V4NPU_INLINE uint16x8_t to_half(float32x4_t lo, float32x4_t hi, float scale) {
  const float16x4_t first = vcvt_f16_f32(vmulq_n_f32(lo, scale));
  return vreinterpretq_u16_f16(vcombine_f16(first, vcvt_f16_f32(vmulq_n_f32(hi, scale))));
}

// As above: 2^-8 of the value in float16 has the code in its bits. A NaN is the only one with the upper exponent bit.
V4NPU_INLINE void store_e4m3_exact(uint8_t* p, f32x16 v) {
  for (int i = 0; i < 2; ++i) {
    const uint16x8_t half = to_half(v.v[2 * i], v.v[2 * i + 1], 0x1p-8f), low = vdupq_n_u16(0x7f);
    const uint16x8_t nan = vandq_u16(vtstq_u16(half, vdupq_n_u16(0x4000)), low);
    const uint16x8_t magnitude = vorrq_u16(vandq_u16(vshrq_n_u16(half, 7), low), nan);
    vst1_u8(p + 8 * i, vmovn_u16(vorrq_u16(magnitude, vbicq_u16(vshrq_n_u16(half, 8), low))));
  }
}

// Likewise 2^-14 of the value.
V4NPU_INLINE void store_e2m1_exact(uint8_t* p, f32x16 v) {
  uint16x4_t pairs[2];
  for (int i = 0; i < 2; ++i) {
    const uint16x8_t half = to_half(v.v[2 * i], v.v[2 * i + 1], 0x1p-14f);
    const uint32x4_t codes = vreinterpretq_u32_u16(
        vorrq_u16(vandq_u16(vshrq_n_u16(half, 9), vdupq_n_u16(7)), vandq_u16(vshrq_n_u16(half, 12), vdupq_n_u16(8))));
    pairs[i] = vmovn_u32(vorrq_u32(codes, vshrq_n_u32(codes, 12)));
  }
  vst1_u8(p, vmovn_u16(vcombine_u16(pairs[0], pairs[1])));
}

// Looks up the upper 16 bits of each value, a byte at a time; the lower ones are zero.
V4NPU_INLINE f32x16 load_e2m1(const uint8_t* p) {
  static const uint8_t kHigh[16] = {0,    0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40,
                                    0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0};
  static const uint8_t kLow[16] = {0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0, 0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0};
  const uint8x8_t bytes = vld1_u8(p), even = vand_u8(bytes, vdup_n_u8(15)), odd = vshr_n_u8(bytes, 4);
  const uint8x16_t codes = vcombine_u8(vzip1_u8(even, odd), vzip2_u8(even, odd));
  const uint8x16_t low = vqtbl1q_u8(vld1q_u8(kLow), codes), high = vqtbl1q_u8(vld1q_u8(kHigh), codes);
  const uint16x8_t halves[2] = {vreinterpretq_u16_u8(vzip1q_u8(low, high)), vreinterpretq_u16_u8(vzip2q_u8(low, high))};
  V4NPU_EACH(from_bf16(i % 2 == 0 ? vget_low_u16(halves[i / 2]) : vget_high_u16(halves[i / 2])));
}

#undef V4NPU_EACH

}  // namespace v4npu::cpu::V4NPU_ISA

#include "no_bf16_dot.h"
#include "no_zmm.h"
#include "one_part.h"
#include "plain_codes.h"
