// Rows in chunks of 8 consecutive elements, one chunk to a thread at a time, and sums over warps and blocks. Which
// thread takes an element, and so the order of a sum, depends on the row's length alone; whether a chunk is read in one
// piece depends on where the row lies.
#pragma once

#include "device.cuh"
#include "shape.h"

namespace v4npu::cuda {

// Whether chunks of a row of n elements that starts at p can be read 16 bytes at a time.
template <class T>
V4NPU_INLINE bool in_pieces(const T* p, int64_t n) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && n % kChunk == 0;
}

V4NPU_INLINE void unpack(uint32_t pair, float& low, float& high) {
  low = bits_float(pair << 16);
  high = bits_float(pair & 0xffff0000u);
}

// Elements [i, i + 8) of a row of n; zeros behind its end.
V4NPU_INLINE void load_chunk(const bf16* row, int64_t i, int64_t n, bool pieces, float (&v)[kChunk]) {
  if (pieces) {
    const u32x4 raw = load_as<u32x4>(row + i);
    unpack(raw.x, v[0], v[1]);
    unpack(raw.y, v[2], v[3]);
    unpack(raw.z, v[4], v[5]);
    unpack(raw.w, v[6], v[7]);
    return;
  }
  V4NPU_UNROLL
  for (int j = 0; j < kChunk; ++j) v[j] = i + j < n ? widen(row[i + j]) : 0.0f;
}
V4NPU_INLINE void load_chunk(const float* row, int64_t i, int64_t n, bool pieces, float (&v)[kChunk]) {
  if (pieces) {
    const u32x4 a = load_as<u32x4>(row + i), b = load_as<u32x4>(row + i + 4);
    v[0] = bits_float(a.x), v[1] = bits_float(a.y), v[2] = bits_float(a.z), v[3] = bits_float(a.w);
    v[4] = bits_float(b.x), v[5] = bits_float(b.y), v[6] = bits_float(b.z), v[7] = bits_float(b.w);
    return;
  }
  V4NPU_UNROLL
  for (int j = 0; j < kChunk; ++j) v[j] = i + j < n ? row[i + j] : 0.0f;
}

V4NPU_INLINE void store_chunk(bf16* row, int64_t i, int64_t n, bool pieces, const float (&v)[kChunk]) {
  if (pieces) {
    store_as(row + i,
             u32x4{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])});
    return;
  }
  V4NPU_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (i + j < n) row[i + j] = narrow<bf16>(v[j]);
  }
}
V4NPU_INLINE void store_chunk(float* row, int64_t i, int64_t n, bool pieces, const float (&v)[kChunk]) {
  if (pieces) {
    store_as(row + i, u32x4{float_bits(v[0]), float_bits(v[1]), float_bits(v[2]), float_bits(v[3])});
    store_as(row + i + 4, u32x4{float_bits(v[4]), float_bits(v[5]), float_bits(v[6]), float_bits(v[7])});
    return;
  }
  V4NPU_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (i + j < n) row[i + j] = v[j];
  }
}

// The sum of the lanes' values, the same in all of them: halves meet, so every lane adds in the same order.
V4NPU_INLINE float warp_sum(float v) {
  V4NPU_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) v += bits_float(shuffle_xor(float_bits(v), mask));
  return v;
}
// The larger; NaN if there is one.
V4NPU_INLINE float larger_or_nan(float a, float b) { return b > a || is_nan(b) ? b : a; }
V4NPU_INLINE float warp_max(float v) {
  V4NPU_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) v = larger_or_nan(v, bits_float(shuffle_xor(float_bits(v), mask)));
  return v;
}

// The sum over a block of kRowThreads; every thread gets it. `parts` holds a float per warp, and nothing before.
V4NPU_INLINE float block_sum(float v, float* parts) {
  v = warp_sum(v);
  if (lane_id() == 0) parts[warp_id()] = v;
  sync_block();
  float sum = 0.0f;
  V4NPU_UNROLL
  for (int w = 0; w < kRowWarps; ++w) sum += parts[w];
  return sum;
}

V4NPU_INLINE float tree_sum(const float (&v)[kChunk]) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

// A thread's part of the sum of squares of a row: chunks first, first + step, ...
template <class T>
V4NPU_INLINE float squares(const T* row, int64_t n, int64_t first, int64_t step) {
  const bool pieces = in_pieces(row, n);
  float sum[kChunk] = {};
  for (int64_t i = first * kChunk; i < n; i += step * kChunk) {
    float v[kChunk];
    load_chunk(row, i, n, pieces, v);
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) sum[j] = fmaf(v[j], v[j], sum[j]);
  }
  return tree_sum(sum);
}

// 1 / sqrt(x) with the error of one rounding: a step of Newton's method whose residual 1 - x y^2 is exact to the last
// bit.
V4NPU_INLINE float inverse_root(float x) {
  const float y = 1.0f / sqrtf(x), xy = x * y, lost = fmaf(x, y, -xy);
  const float residual = fmaf(-lost, y, fmaf(-xy, y, 1.0f));
  return is_nan(residual) ? y : fmaf(0.5f * y, residual, y);  // 0 and infinity
}
V4NPU_INLINE float inverse_rms(float squares_sum, int64_t n, float eps) {
  return inverse_root(squares_sum / static_cast<float>(n) + eps);
}

}  // namespace v4npu::cuda
