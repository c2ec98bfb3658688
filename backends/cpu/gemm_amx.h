// gemm.h in bfloat16 on AMX tiles. The weights are the left operand, as they lie; the activations the right one, packed
// once:
//   packed [tile of 16 tokens][k / 32][16 pairs of k][16 tokens][2]     1 KB per step of 32
// so that one token costs the same instructions as sixteen, in the same order.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kTileElements = 16 * 32;  // of bfloat16

// `columns`: tokens that a packed tile has room for, 16 but for a call of fewer; those beyond m are zero.
template <class W, class X>
void pack(const X& x, const int32_t* index, int64_t first, int64_t m, int64_t columns, int64_t kp, bf16* out) {
  alignas(64) bf16 rows[kTile * kSegment];
  std::memset(rows, 0, sizeof rows);
  const auto lanes = static_cast<__mmask16>((1u << columns) - 1);
  for (int64_t k0 = 0; k0 < kp; k0 += kSegment) {
    for (int64_t t = 0; t < m; ++t) x.decode(index != nullptr ? index[t] : first + t, k0, rows + t * kSegment, 32);
    for (int64_t i = 0; i < kSegment && k0 + i < kp; i += 32) {
      __m512i v[16];
#pragma GCC unroll 16
      for (int t = 0; t < 16; ++t) v[t] = _mm512_load_si512(rows + t * kSegment + i);
      transpose(v);
      bf16* step = out + (k0 + i) * columns;
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) _mm512_mask_storeu_epi32(step + j * columns * 2, lanes, v[j]);
    }
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

// 32 weight rows by one or two tiles of tokens, over `steps` of 32 values.
template <bool kTwo>
V4NPU_INLINE void dots(const bf16* a, int64_t a_rows, const bf16* b, int64_t b_next, int64_t columns, int64_t steps) {
  for (int64_t i = 0; i < steps; ++i) {
    tile_load<6>(b + i * columns * 32, columns * 4);
    if constexpr (kTwo) tile_load<7>(b + b_next + i * columns * 32, columns * 4);
    tile_load<4>(a + i * kTileElements, 64);
    tile_load<5>(a + a_rows + i * kTileElements, 64);
    tile_dot<0, 4, 6>();
    tile_dot<1, 5, 6>();
    if constexpr (kTwo) {
      tile_dot<2, 4, 7>();
      tile_dot<3, 5, 7>();
    }
  }
}

template <bool kTwo, bool kLoad>
V4NPU_INLINE void move_sums(float* c, int64_t row_tiles, int64_t columns) {
  float* const two = c + row_tiles * kTile * kTile;
  if constexpr (kLoad) {
    tile_load<0>(c, columns * 4);
    tile_load<1>(c + kTile * kTile, columns * 4);
    if constexpr (kTwo) {
      tile_load<2>(two, columns * 4);
      tile_load<3>(two + kTile * kTile, columns * 4);
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

// As block in gemm.h.
template <class W>
void block(const W& w, int64_t row0, int64_t rows, const bf16* x, int64_t tokens, int64_t columns, int64_t kp, float* c,
           int64_t row_tiles) {
  // Up to two tiles of tokens stay in registers, and a short chunk lets the decoding of the next overlap the products.
  constexpr int64_t kShort = kSegment, kLong = 512;
  alignas(64) bf16 a[kBlockRows * kLong];
  const int64_t tiles = (tokens + kTile - 1) / kTile;
  const int64_t chunk = tiles <= 2 ? kShort : kLong, a_rows = kTile * chunk;
  // With one tile of tokens memory is the limit, and 32 rows at once are more streams than it follows. So the next rows
  // are fetched in the order in which they lie, while these are at work.
  const char* next = static_cast<const char*>(w.begin(row0 + kBlockRows));
  if (rows < kBlockRows) std::memset(a, 0, sizeof a);
  tile_configure(static_cast<int>(columns));
  if (tiles <= 2) zero_sums();
  for (int64_t k0 = 0; k0 < kp; k0 += chunk) {
    const int64_t n = kp - k0 < chunk ? kp - k0 : chunk;
    for (int64_t r = 0; r < rows; ++r) {
      if (tiles == 1) {
        for (int64_t i = 0; i < W::kSegmentBytes; i += 64) __builtin_prefetch(next + i, 0, 2);
        next += W::kSegmentBytes;
      }
      bf16* row = a + r / kTile * a_rows + r % kTile * 32;
      for (int64_t j = 0; j < n; j += kSegment) w.decode(row0 + r, k0 + j, row + j * kTile, kTileElements);
    }
    const bf16* b = x + k0 * columns;
    if (tiles == 1) {
      dots<false>(a, a_rows, b, 0, columns, n / 32);
    } else if (tiles == 2) {
      dots<true>(a, a_rows, b, kTile * kp, columns, n / 32);
    } else {
      for (int64_t t = 0; t < tiles; t += 2) {
        float* sums = c + t * row_tiles * kTile * kTile;
        const bool two = t + 1 < tiles;
        if (k0 == 0)
          zero_sums();
        else if (two)
          move_sums<true, true>(sums, row_tiles, columns);
        else
          move_sums<false, true>(sums, row_tiles, columns);
        if (two) {
          dots<true>(a, a_rows, b + t * kTile * kp, kTile * kp, columns, n / 32);
          move_sums<true, false>(sums, row_tiles, columns);
        } else {
          dots<false>(a, a_rows, b + t * kTile * kp, 0, columns, n / 32);
          move_sums<false, false>(sums, row_tiles, columns);
        }
      }
    }
  }
  if (tiles == 1) move_sums<false, false>(c, row_tiles, columns);
  if (tiles == 2) move_sums<true, false>(c, row_tiles, columns);
  tile_release();
  for (int64_t t = 0; t < tiles; ++t) {
    for (int64_t r = 0; r < kBlockRows / kTile; ++r) turn(c + (t * row_tiles + r) * kTile * kTile);
  }
}

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA
