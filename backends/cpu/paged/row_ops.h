// What qkv_prepare and compressor do to one row: norm, RoPE, Hadamard, and the FP8 and FP4 roundings with their packed
// forms. Rows are of T = float or bf16; storing into T is the rounding that the contracts speak of.
#pragma once

#include "simd.h"
#include "simd/block.h"
#include "simd/hadamard.h"
#include "simd/squares.h"
#include "v4npu/row_format.h"

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kFp8Block = kKvGroup, kFp4Block = kKeyGroup;  // values to a scale

// x as T holds it.
template <class T>
V4NPU_INLINE float rounded(float x) {
  T out;
  narrow(&out, x);
  return widen(out);
}

// out = x / rms(x) * weight; out may be x.
template <class T, class W>
V4NPU_INLINE void norm_row(const T* x, const W* weight, float eps, T* out, int64_t n) {
  const float mean = sum_of_squares<float>(x, n) / static_cast<float>(n);
  const f32x16 scale = set1(1.0f / __builtin_sqrtf(mean + eps));
  for (int64_t i = 0; i < n; i += kLanes) {
    f32x16 y = load_upto(x + i, n - i) * scale;
    if (weight != nullptr) y = y * load_upto(weight + i, n - i);
    store_upto(out + i, y, n - i);
  }
}

// The rotation of one position: both lanes of a pair hold its own factor.
V4NPU_INLINE void angles(int64_t position, const float* freqs, int64_t rope_dim, bool inverse, float* cosines,
                         float* sines) {
  for (int64_t i = 0; i < rope_dim; i += 2) {
    const float angle = static_cast<float>(position) * freqs[i / 2];
    cosines[i] = cosines[i + 1] = __builtin_cosf(angle);
    const float sine = __builtin_sinf(angle);
    sines[i] = inverse ? sine : -sine;
    sines[i + 1] = -sines[i];
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

// The codes of x[0, n) times `inverse`.
template <class T>
V4NPU_INLINE void encode_fp8(const T* x, int64_t n, float inverse, uint8_t* codes) {
  for (int64_t i = 0; i < n; i += kLanes) {
    uint8_t vector[kLanes];
    store_e4m3(vector, load_upto(x + i, n - i) * set1(inverse));
    std::memcpy(codes + i, vector, static_cast<size_t>(n - i < kLanes ? n - i : kLanes));
  }
}

// In place, a scale to every `block` values.
template <class T>
V4NPU_INLINE void round_fp8(T* x, int64_t n, int64_t block = kFp8Block) {
  for (int64_t at = 0; at < n; at += block) {
    const int64_t count = n - at < block ? n - at : block;
    const uint8_t scale = e4m3_block_scale(largest_magnitude(x + at, count));
    const f32x16 inverse = set1(e8m0_inverse(scale)), factor = set1(e8m0_decode(scale));
    for (int64_t i = 0; i < count; i += kLanes) {
      uint8_t codes[kLanes];
      store_e4m3(codes, load_upto(x + at + i, count - i) * inverse);
      store_upto(x + at + i, load_e4m3(codes) * factor, count - i);
    }
  }
}

// A row that is stored: row slot % block_size of page slot / block_size.
using Slot = RowPlace<uint8_t>;
V4NPU_INLINE Slot find_slot(void* cache, int64_t slot, int64_t block_size, int64_t block_stride,
                            const RowFormat& format) {
  return row_place(static_cast<uint8_t*>(cache) + slot / block_size * block_stride, block_size, format,
                   slot % block_size);
}

// A row that round_fp8 has rounded, as fp8_kv holds it. Its scales are those of the rounded values, as in
// reference/pages.py, so that a page's bytes depend on the row alone.
V4NPU_INLINE void pack_fp8(const bf16* x, int64_t keep, int64_t rope_dim, const Slot& to) {
  for (int64_t at = 0; at < keep; at += kFp8Block) {
    const int64_t count = keep - at < kFp8Block ? keep - at : kFp8Block;
    to.scales[at / kFp8Block] = e4m3_block_scale(largest_magnitude(x + at, count));
    encode_fp8(x + at, count, e8m0_inverse(to.scales[at / kFp8Block]), to.payload + at);
  }
  std::memcpy(to.payload + keep, x + keep, static_cast<size_t>(2 * rope_dim));
}

// Likewise, as fp8_key holds it.
V4NPU_INLINE void pack_fp8_key(const bf16* x, int64_t n, const Slot& to) {
  const uint8_t scale = e4m3_block_scale(largest_magnitude(x, n));
  const float factor = e8m0_decode(scale);
  encode_fp8(x, n, e8m0_inverse(scale), to.payload);
  std::memcpy(to.scales, &factor, sizeof factor);
}

// Two codes to a byte.
template <class T>
V4NPU_INLINE uint8_t encode_fp4(const T* x, int64_t n, uint8_t* packed) {
  const uint8_t scale = e2m1_block_scale(largest_magnitude(x, n < kFp4Block ? n : kFp4Block));
  const f32x16 inverse = set1(e8m0_inverse(scale));
  for (int64_t i = 0; i < kFp4Block; i += kLanes) {
    store_e2m1(packed + i / 2, i < n ? load_upto(x + i, n - i) * inverse : zero());
  }
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
V4NPU_INLINE void pack_fp4(const bf16* x, int64_t n, const Slot& to) {
  uint8_t packed[kFp4Block / 2];
  for (int64_t at = 0; at < n; at += kFp4Block) {
    to.scales[at / kFp4Block] = encode_fp4(x + at, n - at, packed);
    std::memcpy(to.payload + at / 2, packed, static_cast<size_t>(n - at < kFp4Block ? n - at : kFp4Block) / 2);
  }
}

// y has room for n = 2^k values.
template <class T>
V4NPU_INLINE void hadamard_row(T* x, int64_t n, float* y) {
  float few[kLanes];
  if (n < kLanes) y = few;  // the transform works on whole vectors
  for (int64_t i = 0; i < n; i += kLanes) store(y + i, load_upto(x + i, n - i));
  transform(y, n);
  const f32x16 norm = set1(hadamard_norm(n));
  for (int64_t i = 0; i < n; i += kLanes) store_upto(x + i, load_upto(y + i, n - i) * norm, n - i);
}

}  // namespace v4npu::cpu::V4NPU_ISA
