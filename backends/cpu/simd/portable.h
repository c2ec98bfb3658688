// simd.h for any machine: vectors of the compiler, which turns them into what its baseline has. fma rounds twice here:
// without the instruction, rounding once is a library call per lane. Only this instruction set differs so.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

typedef float FloatLanes __attribute__((vector_size(64)));
typedef uint32_t BitLanes __attribute__((vector_size(64)));

struct f32x16 {
  FloatLanes lane;
};

constexpr int kRegisters = 4;  // f32x16 that the machine's registers hold

// A vector whose lane i is `expression`.
#define V4NPU_EACH(expression)                                 \
  f32x16 out;                                                  \
  for (int i = 0; i < kLanes; ++i) out.lane[i] = (expression); \
  return out

V4NPU_INLINE BitLanes bits(f32x16 v) { return reinterpret_cast<BitLanes>(v.lane); }
V4NPU_INLINE f32x16 from_bits(BitLanes v) { return {reinterpret_cast<FloatLanes>(v)}; }

V4NPU_INLINE f32x16 set1(float x) { return {x - FloatLanes{}}; }  // -0 stays -0
V4NPU_INLINE f32x16 zero() { return {FloatLanes{}}; }

V4NPU_INLINE f32x16 load(const float* p) {
  f32x16 out;
  std::memcpy(&out.lane, p, sizeof out.lane);
  return out;
}
// Behind an odd number of codes a packed row's values lie at odd addresses.
V4NPU_INLINE float value_at(const bf16* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bf16_decode(bits);
}
V4NPU_INLINE f32x16 load(const bf16* p) { V4NPU_EACH(value_at(p + i)); }
V4NPU_INLINE f32x16 load_partial(const float* p, int n) { V4NPU_EACH(i < n ? p[i] : 0.0f); }
V4NPU_INLINE f32x16 load_partial(const bf16* p, int n) { V4NPU_EACH(i < n ? value_at(p + i) : 0.0f); }

V4NPU_INLINE void store_partial(float* p, f32x16 v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v.lane[i];
}
V4NPU_INLINE void store_partial(bf16* p, f32x16 v, int n) {
  for (int i = 0; i < n; ++i) p[i].bits = bf16_encode(v.lane[i]);
}
V4NPU_INLINE void store(float* p, f32x16 v) { std::memcpy(p, &v.lane, sizeof v.lane); }
V4NPU_INLINE void store(bf16* p, f32x16 v) { store_partial(p, v, kLanes); }

V4NPU_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {a.lane + b.lane}; }
V4NPU_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {a.lane - b.lane}; }
V4NPU_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {a.lane * b.lane}; }
V4NPU_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {a.lane / b.lane}; }
V4NPU_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {a.lane * b.lane + c.lane}; }
V4NPU_INLINE f32x16 max(f32x16 a, f32x16 b) { return {a.lane > b.lane ? a.lane : b.lane}; }
V4NPU_INLINE f32x16 min(f32x16 a, f32x16 b) { return {a.lane < b.lane ? a.lane : b.lane}; }

V4NPU_INLINE float first_lane(f32x16 v) { return v.lane[0]; }
V4NPU_INLINE f32x16 sqrt(f32x16 v) { V4NPU_EACH(__builtin_sqrtf(v.lane[i])); }

// Lane i takes lane i ^ W.
template <int W>
V4NPU_INLINE f32x16 swap_lanes(f32x16 v) {
  return {__builtin_shufflevector(v.lane, v.lane, 0 ^ W, 1 ^ W, 2 ^ W, 3 ^ W, 4 ^ W, 5 ^ W, 6 ^ W, 7 ^ W, 8 ^ W, 9 ^ W,
                                  10 ^ W, 11 ^ W, 12 ^ W, 13 ^ W, 14 ^ W, 15 ^ W)};
}
V4NPU_INLINE f32x16 swap_pairs(f32x16 v) { return swap_lanes<1>(v); }

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

V4NPU_INLINE f32x16 keep_bits(f32x16 v, uint32_t mask) { return from_bits(bits(v) & mask); }
V4NPU_INLINE f32x16 join_bits(f32x16 a, f32x16 b) { return from_bits(bits(a) | bits(b)); }
V4NPU_INLINE f32x16 max_bits(f32x16 a, f32x16 b) { return {bits(a) > bits(b) ? a.lane : b.lane}; }

// To the nearest integer, ties to even; |v| below 2^22; a zero may lose its sign. Adding 1.5 * 2^23 leaves no bit for a
// fraction.
V4NPU_INLINE f32x16 round(f32x16 v) { return {(v.lane + 0x1.8p23f) - 0x1.8p23f}; }

// 2^v for integers v in [-126, 127]; NaN gives anything.
V4NPU_INLINE f32x16 exp2i(f32x16 v) { return from_bits((bits({v.lane + 0x1.8p23f}) - 0x4b3fff81u) << 23); }

// Lane i with lane i + 8, then 4, 2, 1.
V4NPU_INLINE float reduce_add(f32x16 v) {
  v = v + swap_lanes<8>(v);
  v = v + swap_lanes<4>(v);
  v = v + swap_lanes<2>(v);
  return v.lane[0] + v.lane[1];
}
V4NPU_INLINE float reduce_max(f32x16 v) {
  v = max(v, swap_lanes<8>(v));
  v = max(v, swap_lanes<4>(v));
  v = max(v, swap_lanes<2>(v));
  return first_lane(max(v, swap_lanes<1>(v)));
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

#include "no_bf16_dot.h"
#include "no_zmm.h"
#include "one_part.h"
#include "plain_codes.h"
