// Rows of the paged cache on their way into registers: where a row lies, and its values as float32 or bfloat16.
#pragma once

#include "paged/row_ops.h"
#include "simd.h"
#include "v4npu/dtype.h"

namespace v4npu::cpu::V4NPU_ISA {

// The rows of one sequence.
struct RowSource {
  const uint8_t* base;
  const int32_t* table;
  int64_t block_size, stride;
  RowFormat format;
};

using RowAt = RowPlace<const uint8_t>;

V4NPU_INLINE RowAt row_at(const RowSource& s, int64_t i) {
  const int64_t block = i / s.block_size, row = i - block * s.block_size;
  return row_place(s.base + s.table[block] * s.stride, s.block_size, s.format, row);
}

// Rows [first, first + n) and, to fill the 16, the last of them again.
V4NPU_INLINE void rows_at(const RowSource& s, int64_t first, int64_t n, RowAt (&out)[kLanes]) {
  int64_t block = first / s.block_size, row = first - block * s.block_size;
  const uint8_t* page = s.base + s.table[block] * s.stride;
  for (int64_t k = 0; k < kLanes; ++k) {
    out[k] = row_place(page, s.block_size, s.format, row);
    if (k + 1 >= n || ++row < s.block_size) continue;
    row = 0;
    page = s.base + s.table[++block] * s.stride;
  }
}

// Up to 16 e4m3 codes; none behind the n-th is read, if there are fewer.
V4NPU_INLINE f32x16 load_e4m3_upto(const uint8_t* codes, int64_t n) {
  if (n >= kLanes) return load_e4m3(codes);
  uint8_t tail[kLanes] = {};
  std::memcpy(tail, codes, static_cast<size_t>(n));
  return load_e4m3(tail);
}

// The dims [begin, end) of a KV row, plain or fp8_kv (keep e4m3 values, then bf16 ones), widened. `out` has room for a
// vector more than the whole ones: those of bf16 values may begin anywhere, and behind the last dim is anything. begin
// is a multiple of 64.
template <class T>
V4NPU_INLINE void widen_kv(RowAt row, bool packed, int64_t keep, int64_t begin, int64_t end, float* out) {
  int64_t i = begin;
  if (!packed) {
    const auto* x = reinterpret_cast<const T*>(row.payload);
    for (; i < end; i += kLanes) store(out + (i - begin), load_upto(x + i, end - i));
    return;
  }
  for (const int64_t codes = keep < end ? keep : end; i < codes; i += kFp8Block) {
    const float scale = e8m0_decode(row.scales[i / kFp8Block]), factor = scale * kE4m3Unit;
    const uint8_t* p = row.payload + i;
    float* to = out + (i - begin);
    const int64_t n = codes - i < kFp8Block ? codes - i : kFp8Block;
    if (n == kFp8Block && factor <= 0x1.fffffep127f && has_e4m3_units(p, kFp8Block)) {
      for (int64_t j = 0; j < kFp8Block; j += kLanes) store(to + j, load_e4m3_units(p + j) * set1(factor));
    } else {
      for (int64_t j = 0; j < n; j += kLanes) store(to + j, load_e4m3_upto(p + j, n - j) * set1(scale));
    }
  }
  const auto* turned = reinterpret_cast<const bf16*>(row.payload + keep);
  for (i = begin > keep ? begin : keep; i < end; i += kLanes) {
    store(out + (i - begin), load_upto(turned + i - keep, end - i));
  }
}

template <class T>
V4NPU_INLINE RowFormat key_row(KeyFormat format, int64_t dim) {
  if (format == KeyFormat::kFp4) return fp4_key_row(dim);
  if (format == KeyFormat::kFp8) return fp8_key_row(dim);
  return plain_row(dim, sizeof(T));
}

// An index key widened likewise.
template <class T>
V4NPU_INLINE void widen_key(RowAt row, KeyFormat format, int64_t dim, float* out) {
  if (format == KeyFormat::kPlain) return widen_kv<T>(row, false, dim, 0, dim, out);
  if (format == KeyFormat::kFp8) {
    float factor;
    std::memcpy(&factor, row.scales, sizeof factor);
    for (int64_t i = 0; i < dim; i += kLanes)
      store(out + i, rounded<bf16>(load_e4m3_upto(row.payload + i, dim - i) * set1(factor)));
    return;
  }
  uint8_t tail[kLanes / 2] = {};
  for (int64_t i = 0; i < dim; i += kLanes) {
    const uint8_t* codes = row.payload + i / 2;
    if (dim - i < kLanes) {
      std::memcpy(tail, codes, static_cast<size_t>(dim - i) / 2);
      codes = tail;
    }
    store(out + i, load_e2m1(codes) * set1(e8m0_decode(row.scales[i / kFp4Block])));
  }
}

V4NPU_INLINE int64_t whole_vectors(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Rows of floats in a tile lie this far apart: a power of two would put them all into the same few cache sets.
V4NPU_INLINE int64_t tile_stride(int64_t dim) { return whole_vectors(dim) + kLanes; }

// Heads become lanes: q [heads, dim] to out [dim, lanes], zero behind the last head.
template <class T>
V4NPU_INLINE void transpose_heads(const T* q, int64_t heads, int64_t lanes, int64_t dim, float* out) {
  for (int64_t h = 0; h < lanes; h += kLanes) {
    for (int64_t d = 0; d < dim; d += kLanes) {
      f32x16 v[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) v[i] = h + i < heads ? load_upto(q + (h + i) * dim + d, dim - d) : zero();
      transpose(v);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (d + i < dim) store(out + (d + i) * lanes + h, v[i]);
      }
    }
  }
}

constexpr int64_t kDotDims = 64;  // summed one after the other; then the sums are, which keeps long rows accurate

// What dots multiply: a value, or a pair of bf16 values in its bits, for dot_bf16.
enum class Lane { kValue, kPair };

template <Lane L>
V4NPU_INLINE f32x16 multiply_add(f32x16 key, f32x16 heads, f32x16 sum) {
  if constexpr (L == Lane::kValue) {
    return fma(key, heads, sum);
  } else {
    bf16x32 a, b;
    std::memcpy(&a, &key, sizeof a);
    std::memcpy(&b, &heads, sizeof b);
    return dot_bf16(sum, a, b);
  }
}

// x [n] as pairs of bf16, which its values are exactly, in whole vectors of pairs: zero behind the last.
V4NPU_INLINE void pair_row(const float* x, int64_t n, float* out) {
  auto* to = reinterpret_cast<bf16*>(out);
  for (int64_t i = 0; i < n; i += 2 * kLanes) {
    store(to + i, load_upto(x + i, n - i));
    store(to + i + kLanes, n - i > kLanes ? load_upto(x + i + kLanes, n - i - kLanes) : zero());
  }
}

// Keys become lanes: 16 rows of n floats to out [n, 16]. n is in whole vectors.
V4NPU_INLINE void turn_rows(const float* const (&rows)[kLanes], int64_t n, float* out) {
  for (int64_t d = 0; d < n; d += kLanes) {
    f32x16 v[kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) v[k] = load(rows[k] + d);
    transpose(v);
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) store(out + (d + j) * kLanes, v[j]);
  }
}

template <int N>
struct Number {
  constexpr operator int() const { return N; }
};

// each(number, at) over [0, n) in steps of MOST, and of 4, 2 and 1 for the rest: a step's number is a constant, so that
// all its sums are registers.
template <int MOST, class Each>
V4NPU_INLINE void in_steps(int64_t n, const Each& each, int64_t at = 0) {
  for (; at + MOST <= n; at += MOST) each(Number<MOST>{}, at);
  if constexpr (MOST > 1) in_steps<(MOST > 4 ? 4 : MOST / 2)>(n, each, at);
}

// out[key][head] = <key, q[head]> of KEYS keys and VECTORS vectors of heads, of the dims [first, end); it is added to
// what lies there unless they are the first. For every four dims a line of what is `ahead` is fetched, where registers
// suffice for that.
template <int KEYS, int VECTORS, class Ahead>
static void head_dots(const float* keys, int64_t key_stride, const float* q, int64_t lanes, int64_t first, int64_t end,
                      float* out, Ahead& ahead) {
  f32x16 sum[KEYS][VECTORS];
  for (int k = 0; k < KEYS; ++k) {
    for (int v = 0; v < VECTORS; ++v) sum[k][v] = zero();
  }
  const auto add = [&](int64_t d) __attribute__((always_inline)) {
    f32x16 heads[VECTORS];
    for (int v = 0; v < VECTORS; ++v) heads[v] = load(q + d * lanes + v * kLanes);
    for (int k = 0; k < KEYS; ++k) {
      const f32x16 key = set1(keys[k * key_stride + d]);
      for (int v = 0; v < VECTORS; ++v) sum[k][v] = fma(key, heads[v], sum[k][v]);
    }
  };
  int64_t d = first;
  for (; d + 4 <= end && kRegisters >= 32; d += 4) {
    ahead.fetch_line();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) add(d + i);
  }
  for (; d < end; ++d) add(d);
  for (int k = 0; k < KEYS; ++k) {
    for (int v = 0; v < VECTORS; ++v) {
      float* to = out + k * lanes + v * kLanes;
      store(to, first == 0 ? sum[k][v] : load(to) + sum[k][v]);
    }
  }
}

// Summed over dim in ascending order; 64 dims of all keys and heads stay in the first cache.
template <int VECTORS, class Ahead>
V4NPU_INLINE void dots_of_all_keys(const float* keys, int64_t n, int64_t key_stride, const float* q, int64_t lanes,
                                   int64_t dim, float* out, Ahead& ahead) {
  // 24, 16 or 8 sums, and the vectors of heads, in 32 registers; 6 where there are 8 of 16 lanes.
  constexpr int kKeys = VECTORS == 4 || kRegisters < 32 ? 6 : 8;
  for (int64_t first = 0; first < dim; first += kDotDims) {
    const int64_t end = first + kDotDims < dim ? first + kDotDims : dim;
    in_steps<kKeys>(n, [&](auto number, int64_t k) __attribute__((always_inline)) {
      head_dots<number, VECTORS>(keys + k * key_stride, key_stride, q, lanes, first, end, out + k * lanes, ahead);
    });
  }
}

// out [n, lanes] of n keys and all heads.
template <class Ahead>
V4NPU_INLINE void dots_of_tile(const float* keys, int64_t n, int64_t key_stride, const float* q, int64_t lanes,
                               int64_t dim, float* out, Ahead& ahead) {
  int64_t at = 0;
  for (; kRegisters >= 32 && at + 4 * kLanes <= lanes; at += 4 * kLanes) {
    dots_of_all_keys<4>(keys, n, key_stride, q + at, lanes, dim, out + at, ahead);
  }
  for (; kRegisters >= 32 && at + 2 * kLanes <= lanes; at += 2 * kLanes) {
    dots_of_all_keys<2>(keys, n, key_stride, q + at, lanes, dim, out + at, ahead);
  }
  for (; at < lanes; at += kLanes) dots_of_all_keys<1>(keys, n, key_stride, q + at, lanes, dim, out + at, ahead);
}

}  // namespace v4npu::cpu::V4NPU_ISA
