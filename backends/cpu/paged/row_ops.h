// What qkv_prepare, compressor and indexer_query do to one row beside norm, rotation and transform: the FP8 and FP4
// roundings, and the packed forms. Rows are of T = float or bf16; storing into T is the rounding that the contracts
// speak of.
#pragma once

#include "simd.h"
#include "simd/block.h"
#include "simd/hadamard.h"
#include "simd/rope.h"
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

// In place, a scale to every `block` values.
template <class T>
V4NPU_INLINE void round_fp8(T* x, int64_t n, int64_t block = kFp8Block) {
  for (int64_t at = 0; at < n; at += block) {
    const int64_t count = n - at < block ? n - at : block;
    const uint8_t scale = e4m3_block_scale(largest_magnitude(x + at, count));
    const f32x16 inverse = set1(e8m0_inverse(scale)), factor = set1(e8m0_decode(scale));
    for (int64_t i = at; i < at + count; i += kLanes)
      store_upto(x + i, round_e4m3(load_upto(x + i, at + count - i) * inverse) * factor, at + count - i);
  }
}
// Likewise, a scale to every kFp4Block values; out may be x.
template <class T>
V4NPU_INLINE void round_fp4(const T* x, int64_t n, T* out) {
  for (int64_t at = 0; at < n; at += kFp4Block) {
    const int64_t count = n - at < kFp4Block ? n - at : kFp4Block;
    const uint8_t scale = e2m1_block_scale(largest_magnitude(x + at, count));
    const f32x16 inverse = set1(e8m0_inverse(scale)), factor = set1(e8m0_decode(scale));
    for (int64_t i = at; i < at + count; i += kLanes)
      store_upto(out + i, round_e2m1(load_upto(x + i, at + count - i) * inverse) * factor, at + count - i);
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
    encode_e4m3(x + at, count, e8m0_inverse(to.scales[at / kFp8Block]), to.payload + at);
  }
  std::memcpy(to.payload + keep, x + keep, static_cast<size_t>(2 * rope_dim));
}

// Likewise, as fp8_key holds it.
V4NPU_INLINE void pack_fp8_key(const bf16* x, int64_t n, const Slot& to) {
  const uint8_t scale = e4m3_block_scale(largest_magnitude(x, n));
  const float factor = e8m0_decode(scale);
  encode_e4m3(x, n, e8m0_inverse(scale), to.payload);
  std::memcpy(to.scales, &factor, sizeof factor);
}

// A row that round_fp4 has rounded, as fp4_key holds it.
V4NPU_INLINE void pack_fp4(const bf16* x, int64_t n, const Slot& to) {
  for (int64_t at = 0; at < n; at += kFp4Block) {
    const int64_t count = n - at < kFp4Block ? n - at : kFp4Block;
    to.scales[at / kFp4Block] = e2m1_block_scale(largest_magnitude(x + at, count));
    encode_e2m1(x + at, count, e8m0_inverse(to.scales[at / kFp4Block]), to.payload + at / 2);
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
