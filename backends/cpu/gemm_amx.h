// gemm.h in bfloat16 on AMX tiles. The weights are the left operand, as they lie; the activations the right one, packed
// once:
//   packed [k / 512][tile of 16 tokens of a block][16 steps of 32][16 pairs of k][16 tokens][2]     1 KB per step
// and of no more than kSomeTokens [k / 256], so that the first cache has room for their sums. Those of one tile of
// tokens or two never leave the tiles. One token costs the same instructions as sixteen: one by short rows of FP8 and
// up to four by FP4 come cheaper without tiles (gemm_amx_rows.h, gemm_amx_fp4.h), which find them in another form
// behind those that are packed.
//
// Loading tiles keeps other loads waiting, so of many tokens decoding does not hide behind products. What does not fit
// the first cache beside the decoded rows are the tokens: they are streamed past it.
#pragma once

#include "gemm_amx_fp4.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kTileElements = 16 * 32;  // of bfloat16
constexpr int64_t kLongRow = 2048;          // bytes; the hardware alone follows longer ones

// Values of kBlockRows rows that are decoded together for so many tiles of tokens.
V4NPU_INLINE int64_t decoded(int64_t tiles) { return tiles * kTile <= kSomeTokens ? kDecoded / 2 : kDecoded; }

// The rows that up to kMost tokens are multiplied with in vectors (by_rows): the form of the tokens, and rows of which
// lengths.
template <class W>
struct ByRows {
  static constexpr int64_t kMost = 0;
};
template <>
struct ByRows<E4m3Rows> {
  static constexpr int64_t kMost = 1;
  using Tokens = WideToken;
  V4NPU_INLINE bool takes(int64_t k) { return k % 64 == 0 && k <= kLongRow; }
};
template <>
struct ByRows<E2m1Rows> {
  static constexpr int64_t kMost = 4;
  using Tokens = NumberedTokens;
  V4NPU_INLINE bool takes(int64_t k) { return k % 128 == 0 && k < int64_t{1} << 26; }
};

// Rows of a tile that are no longer than 4 bytes take a long time to load.
V4NPU_INLINE int64_t wide_enough(int64_t columns) { return columns < 4 ? 4 : columns; }

// `least`: tokens that a packed tile has room for, 16 but for a call of fewer; those beyond m are zero.
template <class W, class X>
void pack(const X& x, const int32_t* index, int64_t first, int64_t m, int64_t least, int64_t kp, Packed<bf16> to) {
  const int64_t columns = wide_enough(least);
  alignas(64) bf16 rows[kTile * kSegment];
  std::memset(rows, 0, sizeof rows);
  const auto lanes = static_cast<__mmask16>((1u << columns) - 1);
  for (int64_t k0 = 0; k0 < kp; k0 += kSegment) {
    const int64_t most = decoded(to.tiles), chunk = k0 / most * most, n = kp - chunk < most ? kp - chunk : most;
    bf16* const out = to.block + (chunk * to.tiles + to.tile * n + k0 - chunk) * columns;
    for (int64_t t = 0; t < m; ++t) x.decode(index != nullptr ? index[t] : first + t, k0, rows + t * kSegment, 32);
    for (int64_t i = 0; i < kSegment && k0 + i < kp; i += 32) {
      __m512i v[16];
#pragma GCC unroll 16
      for (int t = 0; t < 16; ++t) v[t] = _mm512_load_si512(rows + t * kSegment + i);
      transpose(v);
      bf16* step = out + i * columns;
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) _mm512_mask_storeu_epi32(step + j * columns * 2, lanes, v[j]);
    }
  }
  if constexpr (ByRows<W>::kMost > 0) {
    if (least <= ByRows<W>::kMost && ByRows<W>::takes(kp)) ByRows<W>::Tokens::make(to.block, m, columns, kp);
  }
}

// Sums of 16 weight rows (down) by 16 tokens (across), stored the other way round.
V4NPU_INLINE void turn(float* c) {
  __m512i v[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = _mm512_loadu_si512(c + i * kTile);
  transpose(v);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(c + i * kTile, v[i]);
}

// Tiles of 16 weight rows by 32 values: `next` values from one to the next, `rows_apart` from a row to the next, and
// where the second 16 rows begin.
struct LeftTiles {
  const bf16* at;
  int64_t next, rows_apart, second;
};

// 32 values of 32 weight rows, by one or two tiles of tokens.
template <bool kTwo>
V4NPU_INLINE void dots(const LeftTiles& a, const bf16* b, int64_t b_next, int64_t columns, int64_t step) {
  const bf16* left = a.at + step * a.next;
  b += step * columns * 32;
  tile_load<4>(left, a.rows_apart * 2);
  tile_stream<6>(b, columns * 4);
  tile_dot<0, 4, 6>();
  tile_load<5>(left + a.second, a.rows_apart * 2);
  tile_dot<1, 5, 6>();
  if constexpr (kTwo) {
    tile_stream<7>(b + b_next, columns * 4);
    tile_dot<2, 4, 7>();
    tile_dot<3, 5, 7>();
  }
}

template <bool kTwo, bool kLoad>
V4NPU_INLINE void move_sums(float* c, int64_t row_tiles) {
  float* const two = c + row_tiles * kTile * kTile;
  if constexpr (kLoad) {
    tile_load<0>(c, kTile * 4);
    tile_load<1>(c + kTile * kTile, kTile * 4);
    if constexpr (kTwo) {
      tile_load<2>(two, kTile * 4);
      tile_load<3>(two + kTile * kTile, kTile * 4);
    }
  } else {
    tile_store<0>(c, kTile * 4);
    tile_store<1>(c + kTile * kTile, kTile * 4);
    if constexpr (kTwo) {
      tile_store<2>(two, kTile * 4);
      tile_store<3>(two + kTile * kTile, kTile * 4);
    }
  }
}

V4NPU_INLINE void zero_sums() {
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
}

// Those of one or two tiles of tokens to c.
template <bool kTwo>
V4NPU_INLINE void take_sums(float* c, int64_t row_tiles) {
  move_sums<kTwo, false>(c, row_tiles);
  for (int64_t t = 0; t <= kTwo; ++t, c += row_tiles * kTile * kTile) {
    turn(c);
    turn(c + kTile * kTile);
  }
}

constexpr int64_t kFewTiles = 2;           // whose sums stay in tiles
constexpr int64_t kDecodedFew = kSegment;  // decoded() of no more

// One or two tiles of tokens as they are packed.
struct FewTokens {
  const bf16* x;
  int64_t columns, tiles, kp;

  // Where in the first tile the 32 values from k on are, and how far behind these in the second.
  V4NPU_MEMBER const bf16* at(int64_t k) const {
    const int64_t chunk = k / decoded(tiles) * decoded(tiles);
    return x + (chunk * tiles + k - chunk) * columns;
  }
  V4NPU_MEMBER int64_t next(int64_t k) const {
    const int64_t most = decoded(tiles), left = kp - k / most * most;
    return (left < most ? left : most) * columns;
  }
};

// Values [k0, k0 + n) of `rows` rows, in tiles; fetch(r, k) goes with the segment k of row r.
template <class W, class Fetch>
V4NPU_INLINE void decode_rows(const W& w, int64_t row0, int64_t rows, int64_t k0, int64_t n, bf16* out,
                              const Fetch& fetch) {
  for (int64_t r = 0; r < rows; ++r) {
    bf16* row = out + r / kTile * kTile * n + r % kTile * 32;
    for (int64_t j = 0; j < n; j += kSegment) {
      fetch(r, k0 + j);
      w.decode(row0 + r, k0 + j, row + j * kTile, kTileElements);
    }
  }
}

// 32 rows or fewer. Memory is the limit, and 32 rows at once are more streams than it follows. So the next rows, in the
// order in which they lie, are fetched while these are at work.
template <bool kTwo, class W>
void few_tiles(const W& w, int64_t row0, int64_t rows, const FewTokens& x, float* c, int64_t row_tiles) {
  alignas(64) bf16 a[kBlockRows * kDecodedFew];
  const char* next = static_cast<const char*>(w.begin(row0 + kBlockRows));
  if (rows < kBlockRows) std::memset(a, 0, sizeof a);
  zero_sums();
  for (int64_t k0 = 0; k0 < x.kp; k0 += kDecodedFew) {
    const int64_t n = x.kp - k0 < kDecodedFew ? x.kp - k0 : kDecodedFew;
    decode_rows(w, row0, rows, k0, n, a, [&](int64_t, int64_t) __attribute__((always_inline)) {
      for (const char* end = next + W::kSegmentBytes; next < end; next += 64) __builtin_prefetch(next, 0, 2);
    });
    for (int64_t i = 0; i < n / 32; ++i)
      dots<kTwo>({a, kTileElements, 32, kTile * n}, x.at(k0), x.next(k0), x.columns, i);
  }
  take_sums<kTwo>(c, row_tiles);
}

// Likewise, of FP8 rows with one scale, a line of each row at a time: decoded while those before them are multiplied,
// so that neither memory nor tiles wait. False, and c is to be computed anew, where rows are others or a value is not
// exact in bfloat16.
template <bool kTwo, class W>
V4NPU_INLINE bool few_lines(const W& /*w*/, int64_t /*row0*/, const FewTokens& /*x*/, float* /*c*/,
                            int64_t /*row_tiles*/) {
  return false;
}
template <bool kTwo>
bool few_lines(const E4m3Rows& w, int64_t row0, const FewTokens& x, float* c, int64_t row_tiles) {
  constexpr int64_t kLine = 64, kSteps = kLine / 32, kRows = kBlockRows / kSteps;
  if (w.k % kLine != 0 || !w.share_scales(row0, kBlockRows)) return false;
  alignas(64) bf16 a[2][kBlockRows * kLine];
  const uint8_t* next = w.codes + (row0 + kBlockRows) * w.k;
  ScaledE4m3 codes;
  zero_sums();
  const auto multiply = [&](int64_t k0, int64_t step) __attribute__((always_inline)) {
    dots<kTwo>({a[k0 / kLine % 2], kTileElements, 32, kTile * kLine}, x.at(k0), x.next(k0), x.columns, step);
  };
  for (int64_t k0 = 0; k0 < w.k; k0 += kLine) {
    const uint8_t scale = w.scale_of(row0, k0), *p = w.codes + row0 * w.k + k0;
    bf16* out = a[k0 / kLine % 2];
#pragma GCC unroll 1
    for (int64_t step = 0; step < kSteps; ++step, out += kTile * kLine) {
      if (k0 != 0) multiply(k0 - kLine, step);
#pragma GCC unroll 4
      for (int64_t r = 0; r < kRows; ++r, p += w.k, next += kLine) {
        __builtin_prefetch(next, 0, 2);
        bf16x32 v[2];
        codes.load(p, scale, v);
        store(out + r * 32, v[0]);
        store(out + r * 32 + kTileElements, v[1]);
      }
    }
  }
  for (int64_t step = 0; step < kSteps; ++step) multiply(w.k - kLine, step);
  take_sums<kTwo>(c, row_tiles);
  return codes.exact();
}

// Where 32 rows lie as tiles want them.
template <class W>
V4NPU_INLINE const bf16* in_place(const W& /*w*/, int64_t /*row0*/) {
  return nullptr;
}
V4NPU_INLINE const bf16* in_place(const PlainRows<bf16>& w, int64_t row0) {
  return w.k % 32 == 0 ? w.data + row0 * w.stride : nullptr;
}

// They are multiplied there.
template <bool kTwo>
V4NPU_INLINE void few_in_place(const bf16* w, int64_t stride, const FewTokens& x, float* c, int64_t row_tiles) {
  const int64_t fetched = stride * 2 <= kLongRow ? kBlockRows : 0;
  const bf16* next = w + kBlockRows * stride;
  zero_sums();
  for (int64_t k = 0; k < x.kp; k += 32) {
    for (int64_t r = 0; r < fetched; ++r, next += 32)
      fetch_lines(reinterpret_cast<const uint8_t*>(w + r * stride + k), reinterpret_cast<const uint8_t*>(next));
    dots<kTwo>({w + k, 32, stride, kTile * stride}, x.at(k), x.next(k), x.columns, 0);
  }
  take_sums<kTwo>(c, row_tiles);
}

// 32 rows or fewer, in whichever way is quickest in tiles.
template <bool kTwo, class W>
V4NPU_INLINE void few(const W& w, int64_t row0, int64_t rows, const FewTokens& x, float* c, int64_t row_tiles) {
  if (rows == kBlockRows && few_lines<kTwo>(w, row0, x, c, row_tiles)) return;
  const bf16* at = rows == kBlockRows ? in_place(w, row0) : nullptr;
  if (at == nullptr) return few_tiles<kTwo>(w, row0, rows, x, c, row_tiles);
  few_in_place<kTwo>(at, in_place(w, row0 + 1) - at, x, c, row_tiles);
}

// 32 rows by so few tokens that vectors are quicker. False, and c is to be computed anew, where they are not, or do not
// have the tiles' bits.
template <class W>
V4NPU_INLINE bool few_in_vectors(const W& w, int64_t row0, int64_t rows, const bf16* x, int64_t tokens, int64_t least,
                                 int64_t kp, float* c) {
  if constexpr (ByRows<W>::kMost > 0) {
    if (least <= ByRows<W>::kMost && rows == kBlockRows && ByRows<W>::takes(w.k)) {
      const typename ByRows<W>::Tokens form(x, tokens, wide_enough(least), kp);
      return by_rows(w, row0, form, c) && by_rows(w, row0 + kTile, form, c + kTile * kTile);
    }
  }
  return false;
}

// n values of 32 rows by one or two tiles of tokens at b.
template <bool kTwo>
V4NPU_INLINE void add_sums(const LeftTiles& a, const bf16* b, int64_t n, float* c, int64_t row_tiles, bool first) {
  if (first) {
    zero_sums();
  } else {
    move_sums<kTwo, true>(c, row_tiles);
  }
  for (int64_t i = 0; i < n / 32; ++i) dots<kTwo>(a, b, kTile * n, kTile, i);
  move_sums<kTwo, false>(c, row_tiles);
}

// As block in gemm.h. Of many tokens the same values meet all rows before the next ones do: the second cache holds
// them, whatever the length of a row.
template <class W>
void block(const W& w, int64_t row0, int64_t rows, const bf16* x, int64_t tokens, int64_t least, int64_t kp, float* c,
           int64_t row_tiles) {
  const int64_t tiles = (tokens + kTile - 1) / kTile;
  if (tiles <= kFewTiles) {
    const FewTokens few_tokens{x, wide_enough(least), tiles, kp};
    bool configured = false;  // which takes a while: only when it is needed
    for (int64_t r = 0; r < rows; r += kBlockRows, c += kBlockRows * kTile) {
      const int64_t some = rows - r < kBlockRows ? rows - r : kBlockRows;
      if (few_in_vectors(w, row0 + r, some, x, tokens, least, kp, c)) continue;
      if (!configured) tile_configure(static_cast<int>(few_tokens.columns));
      configured = true;
      tiles == 1 ? few<false>(w, row0 + r, some, few_tokens, c, row_tiles)
                 : few<true>(w, row0 + r, some, few_tokens, c, row_tiles);
    }
    if (configured) tile_release();
    return;
  }
  tile_configure(kTile);
  alignas(64) bf16 a[kBlockRows * kDecoded];
  const int64_t most = decoded(tiles);
  for (int64_t k0 = 0; k0 < kp; k0 += most) {
    const int64_t n = kp - k0 < most ? kp - k0 : most;
    for (int64_t r = 0; r < rows; r += kBlockRows) {
      const int64_t some = rows - r < kBlockRows ? rows - r : kBlockRows;
      if (some < kBlockRows) std::memset(a, 0, sizeof a);
      const bool last = r + kBlockRows >= rows;  // what comes next are other values of the first rows
      const int64_t next = last ? row0 : row0 + r + kBlockRows, further = last ? most : 0;
      decode_rows(w, row0 + r, some, k0, n, a, [&](int64_t i, int64_t k) __attribute__((always_inline)) {
        fetch_segment(w, next + i, k + further);
      });
      const LeftTiles left{a, kTileElements, 32, kTile * n};
      for (int64_t t = 0; t < tiles; t += 2) {
        const bf16* b = x + (k0 * tiles + t * n) * kTile;
        float* sums = c + (t * row_tiles + r / kTile) * kTile * kTile;
        t + 1 < tiles ? add_sums<true>(left, b, n, sums, row_tiles, k0 == 0)
                      : add_sums<false>(left, b, n, sums, row_tiles, k0 == 0);
      }
    }
  }
  tile_release();
  for (int64_t t = 0; t < tiles; ++t) {
    for (int64_t r = 0; r < rows; r += kTile) turn(c + (t * row_tiles + r / kTile) * kTile * kTile);
  }
}

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA
