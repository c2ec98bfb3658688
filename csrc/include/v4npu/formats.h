// Number formats of DeepSeek-V4: decode, encode with exact round-to-nearest-even, and the power-of-two block scale.
//
//   bf16    1 sign, 8 exponent, 7 mantissa: the upper half of a float32
//   e4m3fn  1-4-3, bias 7, no infinity: 0x7f is NaN, largest 448, smallest subnormal 2^-9
//   e2m1    1-2-1: codes 0..7 are 0 0.5 1 1.5 2 3 4 6, bit 3 is the sign, no NaN
//   ue8m0   an exponent: byte b is 2^(b-127), 255 is NaN
//
// Packing: two e2m1 values to a byte, the low nibble holds the even index.
// Plain C++17 that any compiler of kernels takes.
#pragma once

#include <cstdint>
#include <cstring>

#include "v4npu/host_device.h"

namespace v4npu {

constexpr float kE4m3Max = 448.0f;
constexpr float kE2m1Max = 6.0f;
constexpr float kE4m3AmaxFloor = 1e-4f;        // below it a block counts as zero: scale 2^-22
constexpr float kE2m1AmaxFloor = 0x1.8p-124f;  // 6 * 2^-126: the scale stays a normal float32
constexpr int kE8m0Bias = 127;

V4NPU_HD inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

V4NPU_HD inline float bits_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// ---- bf16

V4NPU_HD inline float bf16_decode(uint16_t code) { return bits_float(uint32_t{code} << 16); }

V4NPU_HD inline uint16_t bf16_encode(float x) {
  const uint32_t bits = float_bits(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;  // torch's NaN
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// ---- e4m3fn

V4NPU_HD inline float e4m3_decode(uint8_t code) {
  const uint32_t sign = uint32_t{code & 0x80u} << 24, exponent = code >> 3 & 15, mantissa = code & 7;
  if ((code & 0x7f) == 0x7f) return bits_float(sign | 0x7fc00000);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return bits_float(sign | (exponent + 120) << 23 | mantissa << 20);
}

// Saturates: beyond 448, infinity included, lies 448. NaN stays NaN.
V4NPU_HD inline uint8_t e4m3_encode(float x) {
  const uint32_t bits = float_bits(x), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80);
  if (magnitude > 0x7f800000) return sign | 0x7f;
  if (magnitude >= 0x43e00000) return sign | 0x7e;
  if (magnitude < 0x3c800000) {  // below 2^-6: subnormal, a multiple of 2^-9
    // Adding 2^14 leaves 2^-9 as the last bit of the sum, so the addition itself rounds to nearest even.
    const uint32_t sum = float_bits(bits_float(magnitude) + 0x1p14f);
    return sign | static_cast<uint8_t>(sum - 0x46800000);
  }
  const uint32_t rounded = magnitude + 0x7ffff + (magnitude >> 20 & 1);
  return sign | static_cast<uint8_t>((rounded >> 20) - (120 << 3));
}

// ---- e2m1

V4NPU_HD inline float e2m1_decode(uint8_t code) {
  const int exponent = code >> 1 & 3, mantissa = code & 1;
  const float magnitude = exponent == 0
                              ? 0.5f * static_cast<float>(mantissa)
                              : (1.0f + 0.5f * static_cast<float>(mantissa)) * static_cast<float>(1 << (exponent - 1));
  return code & 8 ? -magnitude : magnitude;
}

// For |x| <= 6. Ties go to the even code: 0.25 -> 0, 0.75 -> 1, 1.25 -> 1, 1.75 -> 2, 2.5 -> 2, 3.5 -> 4, 5 -> 4.
V4NPU_HD inline uint8_t e2m1_encode(float x) {
  const uint32_t bits = float_bits(x);
  const float a = bits_float(bits & 0x7fffffff);
  const int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f);
  return static_cast<uint8_t>(code | static_cast<int>(bits >> 28 & 8));
}

V4NPU_HD inline uint8_t e2m1_pack(uint8_t even, uint8_t odd) { return static_cast<uint8_t>(even | odd << 4); }
V4NPU_HD inline uint8_t e2m1_unpack(uint8_t byte, int index) { return byte >> (index % 2 * 4) & 15; }

// ---- ue8m0

V4NPU_HD inline float e8m0_decode(uint8_t byte) {
  if (byte == 255) return bits_float(0x7fc00000);
  return byte == 0 ? 0x1p-127f : bits_float(uint32_t{byte} << 23);
}

// 1 / e8m0_decode(byte), exact.
V4NPU_HD inline float e8m0_inverse(uint8_t byte) {
  if (byte == 255) return bits_float(0x7fc00000);
  return byte == 254 ? 0x1p-127f : bits_float(uint32_t{254u - byte} << 23);
}

// The byte of 2^ceil(log2(x)) for a positive normal x: its exponent, plus 1 if any mantissa bit is set. 2^127 for
// infinity and NaN.
V4NPU_HD inline uint8_t e8m0_ceil(float x) {
  const uint32_t bits = float_bits(x), byte = (bits >> 23) + ((bits & 0x7fffff) != 0);
  return static_cast<uint8_t>(byte < 254 ? byte : 254);
}

// The scale of a block whose largest magnitude is amax. The product with the reciprocal, not a division: both give
// the same exponent for every bf16 amax, and the product is what the published kernels compute. amax is NaN when the
// block has one: an e4m3 says so itself; e2m1 cannot, so its scale does.
V4NPU_HD inline uint8_t e4m3_block_scale(float amax) {
  return e8m0_ceil((amax <= kE4m3AmaxFloor ? kE4m3AmaxFloor : amax) * (1.0f / kE4m3Max));
}
V4NPU_HD inline uint8_t e2m1_block_scale(float amax) {
  if (amax != amax) return 255;
  return e8m0_ceil((amax <= kE2m1AmaxFloor ? kE2m1AmaxFloor : amax) * (1.0f / kE2m1Max));
}

}  // namespace v4npu
