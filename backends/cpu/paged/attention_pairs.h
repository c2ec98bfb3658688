// What attention.h multiplies as pairs of bfloat16: rows on their way out of their pages, two at a time, and their dots
// with the heads. The first heads meet rows while these are decoded, so that it costs little beside their products.
#pragma once

#include "paged/rows.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

// n rows of a KV list: plain, or fp8_kv (keep e4m3 values, then bf16 ones).
struct KvRows {
  const RowAt* at;
  int64_t n;
  bool packed;
  int64_t keep;
};

// The dims [begin, end) of a row in bfloat16.
V4NPU_INLINE void narrow_kv(const KvRows& rows, int64_t k, int64_t begin, int64_t end, bf16* out) {
  const RowAt row = rows.at[k];
  const int64_t codes = !rows.packed ? 0 : rows.keep < end ? rows.keep : end;
  int64_t i = begin;
  for (; i < codes; i += kLanes) {
    const f32x16 scale = set1(e8m0_decode(row.scales[i / kFp8Block]));
    store_upto(out + i - begin, load_e4m3_upto(row.payload + i, codes - i) * scale, codes - i);
  }
  if (rows.packed && begin < rows.keep) i = rows.keep;
  const uint8_t* plain = rows.packed ? row.payload + rows.keep + (i - rows.keep) * 2 : row.payload + i * 2;
  if (i < end) std::memcpy(out + i - begin, plain, static_cast<size_t>(end - i) * sizeof(bf16));
}

// Two rows: e4m3 codes of the dims before `codes`, bfloat16 of the others.
struct TwoRows {
  RowAt even, odd;
  int64_t codes;

  // each(dim, a, b) for every 32 of the dims [begin, end). False, and what it had is to be forgotten, where a code
  // times its scale is not exact in bfloat16.
  template <class Each>
  V4NPU_MEMBER bool walk(int64_t begin, int64_t end, const Each& each) const {
    ScaledE4m3 decoded;
    const auto load = [&](RowAt row, int64_t d, bf16x32(&out)[2]) __attribute__((always_inline)) {
      decoded.load(row.payload + d, row.scales[d / kFp8Block], out);
    };
    const int64_t last = (codes < end ? codes : end) - kFp8Block;
    int64_t d = begin;
    bf16x32 a[2], b[2], next[2];
    if (d <= last) {
      load(even, d, a);
      load(odd, d, b);
    }
    for (; d <= last; d += kFp8Block) {  // what comes next is decoded between products, which hide that
      const int64_t then = d < last ? d + kFp8Block : d;
      each(d, a[0], b[0]);
      load(even, then, next);
      each(d + 32, a[1], b[1]);
      a[0] = next[0];
      a[1] = next[1];
      load(odd, then, b);
    }
    const auto *plain = reinterpret_cast<const bf16*>(even.payload + codes),
               *other = reinterpret_cast<const bf16*>(odd.payload + codes);
    for (; d < end; d += 32) each(d, load_bf16x32(plain + d - codes), load_bf16x32(other + d - codes));
    return begin >= codes || decoded.exact();
  }
};

// take(two) of every two rows and the dims [begin, end), whole groups of 32 and, of codes, of 64. Where it says false,
// again, of rows made bfloat16 first: spare(k) is memory for row k. So is a last row that has no other, beside zeros.
template <class Spare, class Take>
V4NPU_INLINE void each_two(const KvRows& rows, int64_t begin, int64_t end, const Spare& spare, const Take& take) {
  for (int64_t k = 0; k < rows.n; k += 2) {
    bool direct = k + 1 < rows.n && (!rows.packed || rows.keep % kFp8Block == 0);
    TwoRows two{rows.at[k], rows.at[direct ? k + 1 : k], rows.packed ? rows.keep : 0};
    do {
      if (!direct) {
        bf16 *even = spare(k), *odd = spare(k + 1);
        narrow_kv(rows, k, begin, end, even);
        if (k + 1 < rows.n)
          narrow_kv(rows, k + 1, begin, end, odd);
        else
          std::memset(odd, 0, static_cast<size_t>(end - begin) * sizeof(bf16));
        // Their payloads, if codes of the dims before `begin` preceded them.
        two = {{reinterpret_cast<uint8_t*>(even) - begin, nullptr},
               {reinterpret_cast<uint8_t*>(odd) - begin, nullptr},
               begin};
      }
      direct = take(k, two);
    } while (!direct);
  }
}

// The rows 2i and 2i + 1 side by side, as accumulate() multiplies them.
V4NPU_INLINE void store_pairs(float* to, bf16x32 a, bf16x32 b) {
  f32x16 both[2];
  pair_up(a, b, both);
  store(to, both[0]);
  store(to + kLanes, both[1]);
}
V4NPU_INLINE void pair_rows(const KvRows& rows, int64_t begin, int64_t end, bf16* spare, float* pairs) {
  const int64_t stride = tile_stride(end - begin);
  each_two(
      rows, begin, end, [&](int64_t k) __attribute__((always_inline)) { return spare + k % 2 * (end - begin); },
      [&](int64_t k, const TwoRows& two) __attribute__((always_inline)) {
        float* to = pairs + k / 2 * stride - begin;
        return two.walk(begin, end, [&](int64_t d, bf16x32 a, bf16x32 b) __attribute__((always_inline)) {
          store_pairs(to + d, a, b);
        });
      });
}

// Of a query; lanes beyond the last head repeat it.
struct Heads {
  const bf16* q;
  int64_t count, lanes, dim;
};

// The dots of 8 heads, from h on, with two rows.
struct DotsOfHeads {
  static constexpr int kHeads = kLanes / 2;
  const bf16* head[kHeads];
  f32x16 sum[kLanes];

  V4NPU_MEMBER DotsOfHeads(const Heads& heads, int64_t h) {
#pragma GCC unroll 8
    for (int i = 0; i < kHeads; ++i) head[i] = heads.q + (h + i < heads.count ? h + i : heads.count - 1) * heads.dim;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sum[i] = zero();
  }
  V4NPU_MEMBER void add(int64_t d, bf16x32 even, bf16x32 odd) {
#pragma GCC unroll 8
    for (int i = 0; i < kHeads; ++i) {
      const bf16x32 of_head = load_bf16x32(head[i] + d);
      sum[i] = dot_bf16(sum[i], of_head, even);
      sum[kHeads + i] = dot_bf16(sum[kHeads + i], of_head, odd);
    }
  }
  // No odd row, which another thread may have: null.
  V4NPU_MEMBER void put(float* even, float* odd) const {
    alignas(64) float dots[kLanes];
    reduce_add_each(sum, dots);
    std::memcpy(even, dots, sizeof dots / 2);
    if (odd != nullptr) std::memcpy(odd, dots + kHeads, sizeof dots / 2);
  }
};

// out [n, lanes] of all heads; the rows' pairs; in `tile` the rows, for later heads.
V4NPU_INLINE void dots_of_rows(const KvRows& rows, const Heads& heads, float* tile, float* pairs, float* out) {
  const int64_t dim = heads.dim, lanes = heads.lanes, stride = tile_stride(dim / 2);
  const auto row = [&](int64_t k) __attribute__((always_inline)) { return reinterpret_cast<bf16*>(tile + k * stride); };
  each_two(rows, 0, dim, row, [&](int64_t k, const TwoRows& two) __attribute__((always_inline)) {
    bf16 *even = row(k), *odd = row(k + 1);
    float* to = pairs + k / 2 * tile_stride(dim);
    DotsOfHeads dots(heads, 0);
    const bool exact = two.walk(0, dim, [&](int64_t d, bf16x32 a, bf16x32 b) __attribute__((always_inline)) {
      store(even + d, a);
      store(odd + d, b);
      store_pairs(to + d, a, b);
      dots.add(d, a, b);
    });
    dots.put(out + k * lanes, k + 1 < rows.n ? out + (k + 1) * lanes : nullptr);
    return exact;
  });
  for (int64_t h = DotsOfHeads::kHeads; h < lanes; h += DotsOfHeads::kHeads) {
    for (int64_t k = 0; k < rows.n; k += 2) {
      const bf16 *even = row(k), *odd = row(k + 1);
      DotsOfHeads dots(heads, h);
      for (int64_t d = 0; d < dim; d += 32) dots.add(d, load_bf16x32(even + d), load_bf16x32(odd + d));
      dots.put(out + k * lanes + h, k + 1 < rows.n ? out + (k + 1) * lanes + h : nullptr);
    }
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
