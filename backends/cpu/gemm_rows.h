// Rows of either operand of a product, in any stored format: gemm.h.
#pragma once

#include "gemm_workspace.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

#ifdef V4NPU_HAS_AMX
constexpr bool kHasAmx = true;
#else
constexpr bool kHasAmx = false;
template <int GROUPS>
V4NPU_INLINE bool decode_e4m3(const uint8_t*, uint8_t, bf16*, int64_t) {
  return false;
}
V4NPU_INLINE bool decode_e2m1(const uint8_t*, const uint8_t*, bf16*, int64_t) { return false; }
#endif

namespace {

constexpr int64_t kChunk = 1024;  // values to a sum

// decode(row, k0, out, step): the values from k0 on, at most kSegment of them, as E: groups of 32, `step` apart in out;
// the last group is filled up with zeros. k0 is a multiple of kSegment.
// For few tokens: segment(row, k0).at(i), group i of a segment, if it is one of those that are whole and that
// direct(row, k0, n) is true of, each 16 of it in an order that arrange() gives others too; reduce() adds as
// reduce_add.

template <class T, bool kRoundToBf16 = false>
struct PlainRows {
  const T* data;
  int64_t stride;  // elements
  int64_t k;

  static constexpr int64_t kSegmentBytes = kSegment * static_cast<int64_t>(sizeof(T)), kTogether = kSegment;
  struct Segment {
    const T* p;
    V4NPU_MEMBER f32x32 at(int64_t i) const { return {{load(p + 32 * i), load(p + 32 * i + kLanes)}}; }
  };
  V4NPU_MEMBER static f32x16 arrange(f32x16 v) { return v; }
  V4NPU_MEMBER static float reduce(f32x16 v) { return reduce_add(v); }
  bool direct(int64_t, int64_t, int64_t) const { return true; }
  V4NPU_MEMBER Segment segment(int64_t row, int64_t k0) const { return {data + row * stride + k0}; }
  const void* begin(int64_t row) const { return data + row * stride; }

  template <class E>
  void decode(int64_t row, int64_t k0, E* out, int64_t step) const {
    const T* p = data + row * stride + k0;
    const int64_t n = k - k0 < kSegment ? k - k0 : kSegment;
    for (int64_t i = 0; i < n; i += 32, out += step) {
      if constexpr (sizeof(T) == 2 && sizeof(E) == 2) {
        if (n - i < 32) std::memset(out, 0, 64);
        std::memcpy(out, p + i, n - i < 32 ? static_cast<size_t>(n - i) * 2 : 64);
      } else {
        for (int64_t j = 0; j < 32; j += kLanes) {
          f32x16 v = n - i > j ? load_upto(p + i + j, n - i - j) : zero();
          if constexpr (kRoundToBf16 && sizeof(E) == 4) {
            bf16 rounded[kLanes];
            store(rounded, v);
            v = load(rounded);
          }
          store(out + j, v);
        }
      }
    }
  }
};

constexpr int64_t kAhead = 512;  // bytes

// float8_e4m3fn with one scale per 128 columns and 2^row_shift rows.
struct E4m3Rows {
  const uint8_t* codes;
  const uint8_t* scale;
  int64_t k;
  int row_shift;

  static constexpr int64_t kSegmentBytes = kSegment;
  uint8_t scale_of(int64_t row, int64_t k0) const { return scale[(row >> row_shift) * ((k + 127) / 128) + k0 / 128]; }
  const void* begin(int64_t row) const { return codes + row * k; }

  template <class E>
  void decode(int64_t row, int64_t k0, E* out, int64_t step) const {
    const uint8_t* p = codes + row * k + k0;
    const uint8_t s = scale_of(row, k0);
    const int64_t n = k - k0 < kSegment ? k - k0 : kSegment;
    // Rows are read a segment at a time, many at once: more streams than the hardware follows.
    __builtin_prefetch(p + kAhead);
    __builtin_prefetch(p + kAhead + 64);
    uint8_t tail[kSegment];
    if (n < kSegment) {
      std::memset(tail, 0, sizeof tail);
      std::memcpy(tail, p, static_cast<size_t>(n));
      p = tail;
    }
    if constexpr (sizeof(E) == 2 && kHasAmx) {
      if (n == kSegment && decode_e4m3<kSegment / 32>(p, s, out, step)) return;
    }
    const f32x16 factor = set1(e8m0_decode(s));
    for (int64_t i = 0; i < n; i += 32, out += step) {
      store(out, load_e4m3(p + i) * factor);
      store(out + kLanes, load_e4m3(p + i + kLanes) * factor);
    }
  }
};

// Their codes without the scale, over kE4m3Unit.
struct E4m3Units {
  const uint8_t* codes;
  int64_t k;

  static constexpr int64_t kSegmentBytes = kSegment, kTogether = kSegment;
  struct Segment {
    const uint8_t* p;
    V4NPU_MEMBER f32x32 at(int64_t i) const {
      return {{load_e4m3_units(p + 32 * i), load_e4m3_units(p + 32 * i + kLanes)}};
    }
  };
  V4NPU_MEMBER static f32x16 arrange(f32x16 v) { return v; }
  V4NPU_MEMBER static float reduce(f32x16 v) { return reduce_add(v); }
  bool direct(int64_t row, int64_t k0, int64_t n) const { return has_e4m3_units(codes + row * k + k0, n); }
  V4NPU_MEMBER Segment segment(int64_t row, int64_t k0) const { return {codes + row * k + k0}; }
  void decode(int64_t row, int64_t k0, float* out, int64_t /*step*/) const {
    const uint8_t* p = codes + row * k + k0;
    const int64_t n = k - k0 < kSegment ? k - k0 : kSegment;
    std::memset(out, 0, kSegment * sizeof(float));
    for (int64_t i = 0; i < n; ++i) out[i] = e4m3_decode(p[i]) * (1 / kE4m3Unit);
  }
};

// Two e2m1 to a byte with one scale per row and 32 columns.
struct E2m1Rows {
  const uint8_t* codes;
  const uint8_t* scale;
  int64_t k;

  static constexpr int64_t kSegmentBytes = kSegment / 2, kTogether = kChunk;
  struct Segment {
    const uint8_t *p, *scale;
    V4NPU_MEMBER f32x32 at(int64_t i) const { return load_e2m1_scaled(p + 16 * i, scale[i]); }
  };
  V4NPU_MEMBER static f32x16 arrange(f32x16 v) { return arrange_e2m1(v); }
  V4NPU_MEMBER static float reduce(f32x16 v) { return reduce_e2m1(v); }
  // Each scale is one of 4..251, whose upper six bits are not all alike.
  bool direct(int64_t row, int64_t k0, int64_t n) const {
    uint32_t alike = 0;
    for (int64_t i = (row * k + k0) / 32; n >= kSegment; i += kSegment / 32, n -= kSegment) {
      uint32_t four;
      std::memcpy(&four, scale + i, sizeof four);
      alike |= ~(((four ^ four >> 1) & 0x7c7c7c7c) + 0x7f7f7f7f);
    }
    return (alike & 0x80808080) == 0;
  }
  V4NPU_MEMBER Segment segment(int64_t row, int64_t k0) const {
    return {codes + (row * k + k0) / 2, scale + (row * k + k0) / 32};
  }
  const void* begin(int64_t row) const { return codes + row * k / 2; }

  template <class E>
  void decode(int64_t row, int64_t k0, E* out, int64_t step) const {
    const uint8_t* p = codes + (row * k + k0) / 2;
    const uint8_t* s = scale + (row * k + k0) / 32;
    __builtin_prefetch(p + kAhead);
    const int64_t n = k - k0 < kSegment ? k - k0 : kSegment;
    if constexpr (sizeof(E) == 2 && kHasAmx) {
      if (n == kSegment && decode_e2m1(p, s, out, step)) return;
    }
    for (int64_t i = 0; i < n; i += 32, out += step) {
      const f32x16 factor = set1(e8m0_decode(s[i / 32]));
      store(out, load_e2m1(p + i / 2) * factor);
      store(out + kLanes, load_e2m1(p + i / 2 + kLanes / 2) * factor);
    }
  }
};

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA
