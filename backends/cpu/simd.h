// Vectors of 16 float lanes, the same 16 on every instruction set, so that a kernel reads the same and sums in the same
// order everywhere: one zmm, two ymm, four NEON registers, or an array. `simd/<isa>.h` holds what differs.
//
// THE TRAP: each kernel source is compiled several times with different instructions allowed, and of an inline function
// that more than one object holds the linker keeps one. Were it the AVX-512 one, every other path would die on a lesser
// machine. So all of this lives in v4npu::cpu::<isa> and is always inlined, and a kernel includes csrc/include, headers
// of this folder, <cstdint> and <cstring>: no torch, and no <algorithm>, <cmath> or <vector>, whose functions are such
// inline ones. kernels.cmake fails the build on any symbol that escapes. For mathematics use this file or
// __builtin_sqrtf and its like, which call libm.
//
//   f32x16     zero() set1(x)   load(p) store(p, v), of float* or bf16*; load_partial(p, n) store_partial(p, v, n): the
//              first n lanes, 1 to 15; load_upto store_upto: n may be 16 and more
//              + - * /   fma(a, b, c) = a * b + c   max min sqrt round ldexp exp sigmoid softplus   rounded<T>
//              swap_pairs swap_lanes<W> transpose(v[16])   reduce_add reduce_max reduce_max_bits first_lane
//              reduce_add_each(v, out): out[i] is reduce_add(v[i]), of up to 16; there is room for 16
//              above(v, x): a bit for every lane that is greater than x or NaN   kRegisters: how many fit at once
//   f32part    one of the kParts registers that an f32x16 takes, first lanes first, for sums that do not fit at once:
//              zero_part() load_part(p) store_part(p, v) fma join_parts(parts) split_parts(v, parts)
//   f32x32     half[2]: two f32x16
//   bits       keep_bits(v, mask)   join_bits   max_bits: the greater as unsigned, so NaN before infinity
//   scalars    widen(x) to float   narrow(p, x)
//   formats    load_e4m3(p): 16 codes   load_e2m1(p): 16 codes in 8 bytes, low nibble first
//              store_e4m3 store_e2m1 round_e4m3 round_e2m1: as formats.h encodes, bit for bit
//              load_e4m3_units(p), if has_e4m3_units(p, n): 16 values divided by kE4m3Unit, in fewer steps; for where a
//              scale follows anyway
//              load_e2m1_scaled(p, s): 32 codes times e8m0_decode(s), each 16 in an order of their own: arrange_e2m1(v)
//              gives other lanes that order, reduce_e2m1_each(v, out) adds them as reduce_add_each adds lanes in order
//   bf16x32    load_bf16x32 store   dot_bf16(acc, a, b): lane i gains the products of values 2i and 2i + 1
//              pair_up(a, b, out[2]): values of a and b side by side, for dot_bf16, in the bits of floats
//              pair_up(a, b): the same of f32x16, rounded
//              ScaledE4m3: load(p, scale, out[2]) decodes 64 codes times e8m0_decode(scale); exact() tells afterwards
//              whether all of them were   decode_e4m3 decode_e2m1: put(i, group) for each 32 codes times their scales;
//              false where that is not exact
//              Instructions where has_bf16_dot; elsewhere only names that compile, slow or always false.
//
// load_partial fills the lanes from n on with zero. Storing bf16 rounds to nearest even; NaN becomes 0x7fc0. max(a, b)
// and min(a, b) return b when either is NaN: put the constant first and NaN passes through.
#pragma once

#include <cstdint>
#include <cstring>

#include "v4npu/formats.h"

#ifndef V4NPU_ISA
#error "backends/cpu/simd.h is for kernels: kernels.cmake defines V4NPU_ISA"
#endif

#define V4NPU_MEMBER inline __attribute__((always_inline))
#define V4NPU_INLINE static V4NPU_MEMBER

namespace v4npu::cpu::V4NPU_ISA {

constexpr int kLanes = 16;

// The storage of a bfloat16. A struct, so that it is no integer by accident.
struct bf16 {
  uint16_t bits;
};
static_assert(sizeof(bf16) == 2);

// In bfloat16, which it fits: the value of an e2m1 code times e8m0_decode(scale). For tables.
constexpr int e2m1_scaled(int scale, int code) {
  constexpr int kHalves[8] = {0, 1, 2, 3, 4, 6, 8, 12};
  const int halves = kHalves[code % 8], power = halves < 2 ? 0 : halves < 4 ? 1 : halves < 8 ? 2 : 3;
  const int exponent = scale + power - 1, mantissa = halves << 7 >> power;
  int bits = exponent > 0 ? exponent << 7 | (mantissa & 0x7f) : mantissa >> (1 - exponent);
  if (exponent > 254) bits = 0x7f80;
  if (halves == 0) bits = 0;
  if (scale == 255) bits = 0x7fc0;
  return bits | (code & 8) << 12;
}

}  // namespace v4npu::cpu::V4NPU_ISA

#define V4NPU_STRING_(text) #text
#define V4NPU_STRING(text) V4NPU_STRING_(text)
// clang-format off
#include V4NPU_STRING(simd/V4NPU_ISA.h)
// clang-format on

namespace v4npu::cpu::V4NPU_ISA {

// Scalars of the storage types.
V4NPU_INLINE float widen(float x) { return x; }
V4NPU_INLINE float widen(bf16 x) { return bf16_decode(x.bits); }
V4NPU_INLINE void narrow(float* p, float x) { *p = x; }
V4NPU_INLINE void narrow(bf16* p, float x) { p->bits = bf16_encode(x); }

// The lanes that exist: 16, or the n of a tail.
template <class T>
V4NPU_INLINE f32x16 load_upto(const T* p, int64_t n) {
  return n >= kLanes ? load(p) : load_partial(p, static_cast<int>(n));
}
template <class T>
V4NPU_INLINE void store_upto(T* p, f32x16 v, int64_t n) {
  if (n >= kLanes) {
    store(p, v);
  } else {
    store_partial(p, v, static_cast<int>(n));
  }
}

// e^x. Measured over every float32 against float64: at most 1.011 ulp with fused multiply-add, 0.991 without.
// Subnormal results, infinities and NaN are right.
V4NPU_INLINE f32x16 exp(f32x16 x) {
  // Beyond these every result is 0 or infinity, and the exponents below stay within reach of two factors.
  x = max(set1(-105.0f), min(set1(90.0f), x));
  // x = n ln2 + r with |r| <= ln2/2. The upper part of ln2 has 9 bits, so its product with n is exact.
  const f32x16 n = round(x * set1(0x1.715476p+0f));
  f32x16 r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  // Cephes' polynomial for e^r on that interval.
  f32x16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  return ldexp(p, n);
}

V4NPU_INLINE f32x16 sigmoid(f32x16 x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }

// log(1 + e^x) = max(x, 0) + log(1 + t), t = e^-|x|. With s = t / (2 + t), at most 1/3, log(1 + t) is twice
// s + s^3/3 + s^5/5 + ...; what follows s^15 is below 2e-9 of it. The factor t comes last, so a subnormal one is exact.
// At most 3.94 ulp over a sixteenth of all float32.
V4NPU_INLINE f32x16 softplus(f32x16 x) {
  const f32x16 t = exp(join_bits(keep_bits(x, 0x7fffffff), set1(-0.0f)));
  const f32x16 w = set1(2.0f) / (set1(2.0f) + t), s = t * w * set1(0.5f), ss = s * s;
  f32x16 p = set1(1.0f / 15);
  p = fma(p, ss, set1(1.0f / 13));
  p = fma(p, ss, set1(1.0f / 11));
  p = fma(p, ss, set1(1.0f / 9));
  p = fma(p, ss, set1(1.0f / 7));
  p = fma(p, ss, set1(1.0f / 5));
  p = fma(p, ss, set1(1.0f / 3));
  p = fma(p, ss, set1(1.0f));
  return max(zero(), x) + t * w * p;
}

// v as it would be after a round trip through memory of type T.
template <class T>
V4NPU_INLINE f32x16 rounded(f32x16 v) {
  T all[kLanes];
  store(all, v);
  return load(all);
}
template <>
V4NPU_MEMBER f32x16 rounded<float>(f32x16 v) {
  return v;
}

// ---- e4m3 and e2m1: to nearest even, saturating. NaN stays NaN, but e2m1 has none: there it becomes any code.

// To a multiple of `quantum` times the value's own power of two, or of `least` where that is smaller. Adding 2^23
// quanta leaves no bit for a fraction, so the addition itself rounds.
V4NPU_INLINE f32x16 round_to_grid(f32x16 v, float largest, float least, float quantum) {
  const f32x16 magnitude = min(set1(largest), keep_bits(v, 0x7fffffff));
  const f32x16 power = max(set1(least), keep_bits(magnitude, 0x7f800000));
  const f32x16 shift = power * set1(quantum * 0x1p23f);
  return join_bits((magnitude + shift) - shift, keep_bits(v, 0x80000000));
}
V4NPU_INLINE f32x16 round_e4m3(f32x16 v) { return round_to_grid(v, kE4m3Max, 0x1p-6f, 0x1p-3f); }
V4NPU_INLINE f32x16 round_e2m1(f32x16 v) { return round_to_grid(v, kE2m1Max, 1.0f, 0x1p-1f); }

V4NPU_INLINE void store_e4m3(uint8_t* p, f32x16 v) { store_e4m3_exact(p, round_e4m3(v)); }
V4NPU_INLINE void store_e2m1(uint8_t* p, f32x16 v) { store_e2m1_exact(p, round_e2m1(v)); }

// The largest magnitude of all lanes, NaN if any is NaN.
V4NPU_INLINE float reduce_max_bits(f32x16 v) {
  v = max_bits(v, swap_lanes<8>(v));
  v = max_bits(v, swap_lanes<4>(v));
  v = max_bits(v, swap_lanes<2>(v));
  return first_lane(max_bits(v, swap_lanes<1>(v)));
}

}  // namespace v4npu::cpu::V4NPU_ISA
