// What attention.h multiplies as pairs of bfloat16: rows on their way into a tile, their dots with the heads, and the
// tile with neighbouring rows side by side.
#pragma once

#include "paged/rows.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

// widen_kv in bfloat16, of whole groups of 32 dims.
V4NPU_INLINE void narrow_kv(RowAt row, bool packed, int64_t keep, int64_t begin, int64_t end, bf16* out) {
  const int64_t codes = !packed ? 0 : keep < end ? keep : end;
  int64_t i = begin;
  for (; i + kFp8Block <= codes; i += kFp8Block) {
    const auto put = [&](int group, bf16x32 v)
                         __attribute__((always_inline)) { store(out + i - begin + 32 * group, v); };
    if (!decode_e4m3<kFp8Block / 32>(row.payload + i, row.scales[i / kFp8Block], put)) break;
  }
  for (; i < codes; i += kLanes) {
    const f32x16 scale = set1(e8m0_decode(row.scales[i / kFp8Block]));
    store_upto(out + i - begin, load_e4m3_upto(row.payload + i, codes - i) * scale, codes - i);
  }
  if (packed && begin < keep) i = keep;
  const uint8_t* plain = packed ? row.payload + keep + (i - keep) * 2 : row.payload + i * 2;
  if (i < end) std::memcpy(out + i - begin, plain, static_cast<size_t>(end - i) * sizeof(bf16));
}

// out [n, lanes] of n rows and all heads, 8 heads and two rows at a time; lanes beyond the last head repeat it.
V4NPU_INLINE void dots_of_pairs(const float* rows, int64_t n, int64_t stride, const bf16* q, int64_t heads,
                                int64_t lanes, int64_t dim, float* out) {
  constexpr int kHeads = kLanes / 2;
  for (int64_t h = 0; h < lanes; h += kHeads) {
    const bf16* head[kHeads];
    for (int i = 0; i < kHeads; ++i) head[i] = q + (h + i < heads ? h + i : heads - 1) * dim;
    for (int64_t k = 0; k < n; k += 2) {
      const bool two = k + 1 < n;
      const auto* row = reinterpret_cast<const bf16*>(rows + k * stride);
      const auto* next = two ? reinterpret_cast<const bf16*>(rows + (k + 1) * stride) : row;
      f32x16 sum[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) sum[i] = zero();
      for (int64_t d = 0; d < dim; d += 32) {
        const bf16x32 a = load_bf16x32(row + d), b = load_bf16x32(next + d);
#pragma GCC unroll 8
        for (int i = 0; i < kHeads; ++i) {
          const bf16x32 of_head = load_bf16x32(head[i] + d);
          sum[i] = dot_bf16(sum[i], of_head, a);
          sum[kHeads + i] = dot_bf16(sum[kHeads + i], of_head, b);
        }
      }
      alignas(64) float dots[kLanes];
      store(dots, reduce_add_each(sum));
      std::memcpy(out + k * lanes + h, dots, sizeof dots / 2);
      if (two) std::memcpy(out + (k + 1) * lanes + h, dots + kHeads, sizeof dots / 2);
    }
  }
}

// What of the rows [0, n) of a tile accumulate() multiplies, as pairs: rows 2i and 2i + 1 side by side, zero for one
// that is not there. `dims` are whole groups of 32.
V4NPU_INLINE void pair_rows(const float* tile, int64_t n, int64_t stride, int64_t dims, float* pairs) {
  const bf16x32 none{};
  for (int64_t k = 0; k < n; k += 2, tile += 2 * stride, pairs += dims) {
    const auto *even = reinterpret_cast<const bf16*>(tile), *odd = reinterpret_cast<const bf16*>(tile + stride);
    for (int64_t d = 0; d < dims; d += 32) {
      f32x16 both[2];
      pair_up(load_bf16x32(even + d), k + 1 < n ? load_bf16x32(odd + d) : none, both);
      store(pairs + d, both[0]);
      store(pairs + d + kLanes, both[1]);
    }
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
