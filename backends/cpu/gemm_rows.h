// Rows of either operand of a product, in any stored format: gemm.h.
#pragma once

#include "gemm_workspace.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

namespace {

constexpr int64_t kChunk = 1024;  // values to a sum

// values(row, k0, put): put(i, v) for every 16 values from k0 on, at most kSegment of them; the last group of 32 is
// filled up with zeros. k0 is a multiple of kSegment. decode(row, k0, out, step): the same as E, groups of 32 `step`
// apart in out.
// Order: of the 16, one that is quick to decode; arrange() gives it to others too, reduce_each() is reduce_add_each of
// what is so arranged.
// arranged(row, k0, put): values() in that order.
// in_bf16(row, k0, put): put(i, group) for the groups of 32 of a whole segment in bfloat16, or false and nothing.
// For few tokens: segment(row, k0).at(i), group i of a segment over kUnit in that order, if the segment is whole and
// direct(row, k0) is true of it, as of all where kAlwaysDirect.

struct InOrder {
  V4NPU_MEMBER static f32x16 arrange(f32x16 v) { return v; }
  template <int N>
  V4NPU_MEMBER static void reduce_each(const f32x16 (&v)[N], float* out) {
    reduce_add_each(v, out);
  }
};
struct E2m1Order {
  V4NPU_MEMBER static f32x16 arrange(f32x16 v) { return arrange_e2m1(v); }
  template <int N>
  V4NPU_MEMBER static void reduce_each(const f32x16 (&v)[N], float* out) {
    reduce_e2m1_each(v, out);
  }
};

// As put for groups: `step` apart.
V4NPU_INLINE auto to_groups(bf16* out, int64_t step) {
  return [=](int64_t group, bf16x32 v) __attribute__((always_inline)) { store(out + group * step, v); };
}

// As put: into groups of 32 that are `step` apart.
template <class E>
V4NPU_INLINE auto in_groups(E* out, int64_t step) {
  return [=](int64_t i, f32x16 v) __attribute__((always_inline)) { store(out + i / 32 * step + i % 32, v); };
}

template <class T, bool kRoundToBf16 = false>
struct PlainRows {
  const T* data;
  int64_t stride;  // elements
  int64_t k;

  using Order = InOrder;
  static constexpr int64_t kSegmentBytes = kSegment * static_cast<int64_t>(sizeof(T));
  static constexpr bool kAlwaysDirect = true;
  static constexpr float kUnit = 1;
  struct Segment {
    const T* p;
    V4NPU_MEMBER f32x32 at(int64_t i) const { return {{load(p + 32 * i), load(p + 32 * i + kLanes)}}; }
  };
  bool direct(int64_t, int64_t) const { return true; }
  V4NPU_MEMBER Segment segment(int64_t row, int64_t k0) const { return {data + row * stride + k0}; }
  const void* begin(int64_t row) const { return data + row * stride; }

  template <class Put>
  V4NPU_MEMBER void values(int64_t row, int64_t k0, const Put& put) const {
    const T* p = data + row * stride + k0;
    const int64_t n = k - k0 < kSegment ? k - k0 : kSegment;
    for (int64_t i = 0; i < n; i += 32) {
      for (int64_t j = i; j < i + 32; j += kLanes) {
        const f32x16 v = n > j ? load_upto(p + j, n - j) : zero();
        put(j, kRoundToBf16 ? rounded<bf16>(v) : v);
      }
    }
  }
  template <class Put>
  V4NPU_MEMBER void arranged(int64_t row, int64_t k0, const Put& put) const {
    values(row, k0, put);
  }
  template <class Put>
  V4NPU_MEMBER bool in_bf16(int64_t row, int64_t k0, const Put& put) const {
    if constexpr (sizeof(T) == 2) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < kSegment / 32; ++i) put(i, load_bf16x32(data + row * stride + k0 + 32 * i));
    }
    return sizeof(T) == 2;
  }
  template <class E>
  void decode(int64_t row, int64_t k0, E* out, int64_t step) const {
    if constexpr (sizeof(T) == 2 && sizeof(E) == 2) {
      const T* p = data + row * stride + k0;
      const int64_t n = k - k0 < kSegment ? k - k0 : kSegment;
      for (int64_t i = 0; i < n; i += 32, out += step) {
        if (n - i < 32) std::memset(out, 0, 64);
        std::memcpy(out, p + i, n - i < 32 ? static_cast<size_t>(n - i) * 2 : 64);
      }
    } else {
      values(row, k0, in_groups(out, step));
    }
  }
};

// float8_e4m3fn with one scale per 128 columns and 2^row_shift rows.
struct E4m3Rows {
  const uint8_t* codes;
  const uint8_t* scale;
  int64_t k;
  int row_shift;

  using Order = InOrder;
  static constexpr int64_t kSegmentBytes = kSegment;
  uint8_t scale_of(int64_t row, int64_t k0) const { return scale[(row >> row_shift) * ((k + 127) / 128) + k0 / 128]; }
  bool share_scales(int64_t row, int64_t rows) const { return row >> row_shift == (row + rows - 1) >> row_shift; }
  const void* begin(int64_t row) const { return codes + row * k; }

  template <class Put>
  V4NPU_MEMBER void values(int64_t row, int64_t k0, const Put& put) const {
    const int64_t n = k - k0 < kSegment ? k - k0 : kSegment;
    const uint8_t* p = codes + row * k + k0;
    uint8_t tail[kSegment];
    if (n < kSegment) {
      std::memset(tail, 0, sizeof tail);
      std::memcpy(tail, p, static_cast<size_t>(n));
      p = tail;
    }
    const f32x16 factor = set1(e8m0_decode(scale_of(row, k0)));
    for (int64_t i = 0; i < n; i += 32) {
      put(i, load_e4m3(p + i) * factor);
      put(i + kLanes, load_e4m3(p + i + kLanes) * factor);
    }
  }
  // Exact, so the same values.
  template <class Put>
  V4NPU_MEMBER void arranged(int64_t row, int64_t k0, const Put& put) const {
    const float factor = kE4m3Unit * e8m0_decode(scale_of(row, k0));
    const bool finite = factor <= 0x1.fffffep127f;
    if (k - k0 < kSegment || !finite || !has_e4m3_units(codes + row * k + k0, kSegment)) return values(row, k0, put);
    const uint8_t* p = codes + row * k + k0;
    for (int64_t i = 0; i < kSegment; i += kLanes) put(i, fma(load_e4m3_units(p + i), set1(factor), zero()));
  }
  template <class Put>
  V4NPU_MEMBER bool in_bf16(int64_t row, int64_t k0, const Put& put) const {
    return decode_e4m3<kSegment / 32>(codes + row * k + k0, scale_of(row, k0), put);
  }
  template <class E>
  void decode(int64_t row, int64_t k0, E* out, int64_t step) const {
    if constexpr (sizeof(E) == 2) {
      if (k - k0 >= kSegment && in_bf16(row, k0, to_groups(out, step))) return;
    }
    values(row, k0, in_groups(out, step));
  }
};

// Their codes without the scale.
struct E4m3Units {
  const uint8_t* codes;
  int64_t k;

  using Order = InOrder;
  static constexpr int64_t kSegmentBytes = kSegment;
  static constexpr bool kAlwaysDirect = false;
  static constexpr float kUnit = kE4m3Unit;
  struct Segment {
    const uint8_t* p;
    V4NPU_MEMBER f32x32 at(int64_t i) const {
      return {{load_e4m3_units(p + 32 * i), load_e4m3_units(p + 32 * i + kLanes)}};
    }
  };
  bool direct(int64_t row, int64_t k0) const { return has_e4m3_units(codes + row * k + k0, kSegment); }
  V4NPU_MEMBER Segment segment(int64_t row, int64_t k0) const { return {codes + row * k + k0}; }
  const void* begin(int64_t row) const { return codes + row * k; }
  template <class Put>
  V4NPU_MEMBER bool in_bf16(int64_t row, int64_t k0, const Put& put) const {
    ScaledE4m3 unscaled;
#pragma GCC unroll 2
    for (int64_t i = 0; i < kSegment / 64; ++i) {
      bf16x32 v[2];
      unscaled.load(codes + row * k + k0 + 64 * i, kE8m0Bias, v);
      put(2 * i, v[0]);
      put(2 * i + 1, v[1]);
    }
    return true;
  }
  template <class E>
  void decode(int64_t row, int64_t k0, E* out, int64_t /*step*/) const {
    const int64_t n = k - k0 < kSegment ? k - k0 : kSegment;
    uint8_t all[kSegment] = {};
    std::memcpy(all, codes + row * k + k0, static_cast<size_t>(n));
    for (int64_t i = 0; i < kSegment; i += kLanes) store(out + i, load_e4m3(all + i));
  }
};

// Two e2m1 to a byte with one scale per row and 32 columns.
struct E2m1Rows {
  const uint8_t* codes;
  const uint8_t* scale;
  int64_t k;

  using Order = E2m1Order;
  static constexpr int64_t kSegmentBytes = kSegment / 2;
  static constexpr bool kAlwaysDirect = true;
  static constexpr float kUnit = 1;
  struct Segment {
    const uint8_t *p, *scale;
    V4NPU_MEMBER f32x32 at(int64_t i) const { return load_e2m1_scaled(p + 16 * i, scale[i]); }
  };
  bool direct(int64_t, int64_t) const { return true; }
  V4NPU_MEMBER Segment segment(int64_t row, int64_t k0) const {
    return {codes + (row * k + k0) / 2, scale + (row * k + k0) / 32};
  }
  const void* begin(int64_t row) const { return codes + row * k / 2; }

  template <class Put>
  V4NPU_MEMBER void values(int64_t row, int64_t k0, const Put& put) const {
    const int64_t n = k - k0 < kSegment ? k - k0 : kSegment;
    const Segment found = segment(row, k0);
    for (int64_t i = 0; i < n; i += 32) {
      const f32x16 factor = set1(e8m0_decode(found.scale[i / 32]));
      put(i, load_e2m1(found.p + i / 2) * factor);
      put(i + kLanes, load_e2m1(found.p + (i + kLanes) / 2) * factor);
    }
  }
  template <class Put>
  V4NPU_MEMBER void arranged(int64_t row, int64_t k0, const Put& put) const {
    if (k - k0 < kSegment)
      return values(row, k0, [&](int64_t i, f32x16 v) __attribute__((always_inline)) { put(i, Order::arrange(v)); });
    const Segment found = segment(row, k0);
#pragma GCC unroll 4
    for (int64_t i = 0; i < kSegment / 32; ++i) {
      const f32x32 v = found.at(i);
      put(32 * i, v.half[0]);
      put(32 * i + kLanes, v.half[1]);
    }
  }
  template <class Put>
  V4NPU_MEMBER bool in_bf16(int64_t row, int64_t k0, const Put& put) const {
    const Segment found = segment(row, k0);
    return decode_e2m1(found.p, found.scale, put);
  }
  template <class E>
  void decode(int64_t row, int64_t k0, E* out, int64_t step) const {
    if constexpr (sizeof(E) == 2) {
      if (k - k0 >= kSegment && in_bf16(row, k0, to_groups(out, step))) return;
    }
    values(row, k0, in_groups(out, step));
  }
};

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA
