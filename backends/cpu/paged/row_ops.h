// What qkv_prepare and compressor do to one row: norm, RoPE, Hadamard, and the FP8 and FP4 roundings with their packed
// forms. Rows are of T = float or bf16; storing into T is the rounding that the contracts speak of.
#pragma once

#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kFp8Block = 64;  // kKvGroup of cache_layout.h
constexpr int64_t kFp4Block = 32;  // kKeyGroup

// x as T holds it.
template <class T>
V4NPU_INLINE float rounded(float x) {
  T out;
  narrow(&out, x);
  return widen(out);
}

// sum x^2, each square rounded to S; in the order of rms_norm_kernel.cpp.
template <class S, class T>
V4NPU_INLINE float squares(const T* x, int64_t n) {
  f32x16 sum[4] = {zero(), zero(), zero(), zero()};
  const int64_t whole = n / (4 * kLanes) * (4 * kLanes);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t j = i < whole ? i / kLanes % 4 : 0;
    const f32x16 v = load_upto(x + i, n - i);
    if constexpr (sizeof(S) == sizeof(float)) {
      sum[j] = fma(v, v, sum[j]);
    } else {
      sum[j] = sum[j] + rounded<S>(v * v);
    }
  }
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// out = x / rms(x) * weight; out may be x.
template <class T, class W>
V4NPU_INLINE void norm_row(const T* x, const W* weight, float eps, T* out, int64_t n) {
  const float mean = squares<float>(x, n) / static_cast<float>(n);
  const f32x16 scale = set1(1.0f / __builtin_sqrtf(mean + eps));
  for (int64_t i = 0; i < n; i += kLanes) {
    f32x16 y = load_upto(x + i, n - i) * scale;
    if (weight != nullptr) y = y * load_upto(weight + i, n - i);
    store_upto(out + i, y, n - i);
  }
}

// The rotation of one position: both lanes of a pair hold its own factor.
V4NPU_INLINE void angles(int64_t position, const float* freqs, int64_t rope_dim, float* cosines, float* sines) {
  for (int64_t i = 0; i < rope_dim; i += 2) {
    const float angle = static_cast<float>(position) * freqs[i / 2];
    cosines[i] = cosines[i + 1] = __builtin_cosf(angle);
    sines[i + 1] = __builtin_sinf(angle);
    sines[i] = -sines[i + 1];
  }
}

// Turns the rope_dim values at x.
template <class T>
V4NPU_INLINE void turn(T* x, const float* cosines, const float* sines, int64_t rope_dim) {
  for (int64_t i = 0; i < rope_dim; i += kLanes) {
    const int64_t n = rope_dim - i;
    const f32x16 v = load_upto(x + i, n);
    store_upto(x + i, fma(v, load_upto(cosines + i, n), swap_pairs(v) * load_upto(sines + i, n)), n);
  }
}

// The block x[0, n) scaled into the range of a format whose largest value is `top`; returns the byte of its scale.
// Not e4m3_block_scale: a block with an infinity or a NaN takes the scale that the reference gives it.
template <class T>
V4NPU_INLINE uint8_t scale_block(const T* x, int64_t n, int64_t block, float top, float floor, float* scaled) {
  uint32_t amax = 0;
  for (int64_t i = 0; i < block; i += kLanes) {
    store(scaled + i, i < n ? load_upto(x + i, n - i) : zero());
    for (int64_t j = i; j < i + kLanes; ++j) {
      const uint32_t magnitude = float_bits(scaled[j]) & 0x7fffffff;
      amax = magnitude > amax ? magnitude : amax;
    }
  }
  const uint32_t least = float_bits(floor);
  const uint32_t ratio = float_bits(bits_float(amax > least ? amax : least) * (1.0f / top));
  const int exponent = static_cast<int>(ratio >> 23) - kE8m0Bias + ((ratio & 0x7fffff) != 0);
  const int first = exponent > 126 ? 64 : exponent;  // 2^-exponent in two factors that are normal
  const f32x16 a = set1(bits_float(static_cast<uint32_t>(kE8m0Bias - first) << 23));
  const f32x16 b = set1(bits_float(static_cast<uint32_t>(kE8m0Bias - (exponent - first)) << 23));
  for (int64_t i = 0; i < block; i += kLanes) {
    store(scaled + i, max(set1(-top), min(set1(top), load(scaled + i) * a * b)));
  }
  const int byte = exponent + kE8m0Bias;
  return static_cast<uint8_t>(byte > 254 ? 254 : byte);
}

// e4m3_encode of |x| <= 448 or NaN, without branches, so that a loop over it becomes vectors.
V4NPU_INLINE uint8_t e4m3_code(float x) {
  const uint32_t bits = float_bits(x), magnitude = bits & 0x7fffffff;
  const uint32_t small = float_bits(bits_float(magnitude) + 0x1p14f) - 0x46800000;
  const uint32_t normal = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120 << 3);
  const uint32_t code = magnitude < 0x3c800000 ? small : normal;
  return static_cast<uint8_t>((bits >> 24 & 0x80) | (magnitude > 0x7f800000 ? 0x7f : code));
}

template <class T>
V4NPU_INLINE uint8_t encode_fp8(const T* x, int64_t n, uint8_t* codes) {
  float scaled[kFp8Block];
  const uint8_t scale = scale_block(x, n, kFp8Block, kE4m3Max, kE4m3AmaxFloor, scaled);
  for (int i = 0; i < kFp8Block; ++i) codes[i] = e4m3_code(scaled[i]);
  return scale;
}

template <class T>
V4NPU_INLINE void round_fp8(T* x, int64_t n) {
  uint8_t codes[kFp8Block];
  for (int64_t at = 0; at < n; at += kFp8Block) {
    const f32x16 scale = set1(e8m0_decode(encode_fp8(x + at, n - at, codes)));
    for (int64_t i = 0; i < kFp8Block && at + i < n; i += kLanes) {
      store_upto(x + at + i, load_e4m3(codes + i) * scale, n - at - i);
    }
  }
}

// A row that round_fp8 has rounded, as fp8_kv holds it. Its scales are those of the rounded values, as in
// reference/pages.py, so that a page's bytes depend on the row alone.
V4NPU_INLINE void pack_fp8(const bf16* x, int64_t keep, int64_t rope_dim, uint8_t* payload, uint8_t* scales) {
  uint8_t codes[kFp8Block];
  for (int64_t at = 0; at < keep; at += kFp8Block) {
    scales[at / kFp8Block] = encode_fp8(x + at, keep - at, codes);
    std::memcpy(payload + at, codes, static_cast<size_t>(keep - at < kFp8Block ? keep - at : kFp8Block));
  }
  std::memcpy(payload + keep, x + keep, static_cast<size_t>(2 * rope_dim));
}

// Two codes to a byte.
template <class T>
V4NPU_INLINE uint8_t encode_fp4(const T* x, int64_t n, uint8_t* packed) {
  float scaled[kFp4Block];
  const uint8_t scale = scale_block(x, n, kFp4Block, kE2m1Max, kE2m1AmaxFloor, scaled);
  for (int i = 0; i < kFp4Block; i += 2) packed[i / 2] = e2m1_pack(e2m1_encode(scaled[i]), e2m1_encode(scaled[i + 1]));
  return scale;
}

template <class T>
V4NPU_INLINE void round_fp4(T* x, int64_t n) {
  uint8_t packed[kFp4Block / 2];
  for (int64_t at = 0; at < n; at += kFp4Block) {
    const f32x16 scale = set1(e8m0_decode(encode_fp4(x + at, n - at, packed)));
    for (int64_t i = 0; i < kFp4Block && at + i < n; i += kLanes) {
      store_upto(x + at + i, load_e2m1(packed + i / 2) * scale, n - at - i);
    }
  }
}

// A row that round_fp4 has rounded, as fp4_key holds it.
V4NPU_INLINE void pack_fp4(const bf16* x, int64_t n, uint8_t* payload, uint8_t* scales) {
  uint8_t packed[kFp4Block / 2];
  for (int64_t at = 0; at < n; at += kFp4Block) {
    scales[at / kFp4Block] = encode_fp4(x + at, n - at, packed);
    std::memcpy(payload + at / 2, packed, static_cast<size_t>(n - at < kFp4Block ? n - at : kFp4Block) / 2);
  }
}

// y holds n = 2^k values and is used up.
template <class T>
V4NPU_INLINE void hadamard_row(T* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kLanes) store_upto(y + i, load_upto(x + i, n - i), n - i);
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t at = 0; at < n; at += 2 * half) {
      for (int64_t i = at; i < at + half; ++i) {
        const float a = y[i], b = y[i + half];
        y[i] = a + b;
        y[i + half] = a - b;
      }
    }
  }
  const f32x16 scale = set1(static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(n))));
  for (int64_t i = 0; i < n; i += kLanes) store_upto(x + i, load_upto(y + i, n - i) * scale, n - i);
}

// The payload and the scales of a slot of a packed page, and the row of a plain one.
struct Slot {
  uint8_t* payload;
  uint8_t* scales;
};
V4NPU_INLINE Slot find_slot(void* cache, int64_t slot, int64_t block_size, int64_t block_stride, int64_t payload,
                            int64_t scales) {
  uint8_t* page = static_cast<uint8_t*>(cache) + slot / block_size * block_stride;
  const int64_t row = slot % block_size;
  return {page + row * payload, page + block_size * payload + row * scales};
}
V4NPU_INLINE int64_t fp8_scale_bytes(int64_t keep) { return (keep + 8 * kFp8Block - 1) / (8 * kFp8Block) * 8; }

}  // namespace v4npu::cpu::V4NPU_ISA
