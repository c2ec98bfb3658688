// gemm.h in bfloat16 by dot products of pairs, where there are no tiles for them. Rows of either operand lie in order;
// a lane sums two neighbours of every 32 values.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kPairChunk = 2048;     // values to a sum
constexpr int64_t kPairPrefetch = 4096;  // bytes
constexpr int64_t kPairAhead = 512;      // bytes
constexpr int kPairRows = 4, kPairTokens = 6;
constexpr int64_t kGroups = kSegment / 32;

template <class W, class X>
void pack(const X& x, const int32_t* index, int64_t first, int64_t m, int64_t /*columns*/, int64_t kp,
          Packed<bf16> to) {
  bf16* out = to.block + to.tile * kTile * kp;
  for (int64_t t = 0; t < m; ++t, out += kp) {
    for (int64_t k0 = 0; k0 < x.k; k0 += kSegment) x.decode(index != nullptr ? index[t] : first + t, k0, out + k0, 32);
  }
}

// Decoded rows kPairChunk apart, packed tokens kp.
template <int TOKENS>
V4NPU_INLINE void pair_dots(const bf16* w, const bf16* x, int64_t kp, int64_t n, float* c, int64_t row_tiles,
                            int64_t token, int64_t row, bool first) {
  f32x16 sum[kPairRows * TOKENS];
#pragma GCC unroll 24
  for (int i = 0; i < kPairRows * TOKENS; ++i) sum[i] = zero();
  for (int64_t i = 0; i < n; i += 32) {
    bf16x32 b[TOKENS];
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t) b[t] = load_bf16x32(x + t * kp + i);
#pragma GCC unroll 8
    for (int r = 0; r < kPairRows; ++r) {
      const bf16x32 a = load_bf16x32(w + r * kPairChunk + i);
#pragma GCC unroll 8
      for (int t = 0; t < TOKENS; ++t) sum[t * kPairRows + r] = dot_bf16(sum[t * kPairRows + r], a, b[t]);
    }
  }
  put_sums<InOrder, kPairRows, TOKENS>(sum, c, row_tiles, token, row, first);
}

// So few tokens that memory is the limit: rows are read from end to end, and their values go from the registers where
// they are decoded into the sums.
template <int ROWS, int TOKENS, class W>
V4NPU_INLINE void few_pairs(const W& w, int64_t row0, const bf16* x, int64_t kp, float* c, int64_t row_tiles,
                            int64_t r) {
  const auto* next = static_cast<const char*>(w.begin(row0 + r)) + kPairPrefetch;
  for (int64_t k0 = 0; k0 < kp; k0 += kPairChunk) {
    const int64_t end = kp - k0 < kPairChunk ? kp : k0 + kPairChunk;
    f32x16 sum[ROWS * TOKENS];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS * TOKENS; ++i) sum[i] = zero();
    for (int64_t j = k0; j < end; j += kSegment) {
      // In the order in which all rows lie, and into the second cache: it has more requests under way than the first.
      for (int64_t line = 0; line < ROWS * W::kSegmentBytes; line += 64) __builtin_prefetch(next + line, 0, 2);
      next += ROWS * W::kSegmentBytes;
      bf16x32 rows[ROWS][kGroups];
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; ++i) {
        if (w.k - j >= kSegment &&
            w.in_bf16(row0 + r + i, j, [&](int g, bf16x32 v) __attribute__((always_inline)) { rows[i][g] = v; }))
          continue;
        alignas(64) bf16 tail[kSegment];
        w.decode(row0 + r + i, j, tail, 32);
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) rows[i][g] = load_bf16x32(tail + 32 * g);
      }
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) {
        if (32 * g >= end - j) break;
#pragma GCC unroll 8
        for (int t = 0; t < TOKENS; ++t) {
          const bf16x32 b = load_bf16x32(x + t * kp + j + 32 * g);
#pragma GCC unroll 4
          for (int i = 0; i < ROWS; ++i) sum[t * ROWS + i] = dot_bf16(sum[t * ROWS + i], rows[i][g], b);
        }
      }
    }
    put_sums<InOrder, ROWS, TOKENS>(sum, c, row_tiles, 0, r, k0 == 0);
  }
}

// One row of few tokens is one chain of sums, which FP4 outruns by far and memory does not.
template <int TOKENS, class W>
void few_rows(const W& w, int64_t row0, int64_t rows, const bf16* x, int64_t kp, float* c, int64_t row_tiles) {
  constexpr bool kShort = W::kSegmentBytes < kSegment;
  constexpr int kRows = kShort && TOKENS <= 2 ? 4 : kShort || TOKENS > 2 ? 2 : 1;
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) few_pairs<kRows, TOKENS>(w, row0, x, kp, c, row_tiles, r);
  for (; r < rows; ++r) few_pairs<1, TOKENS>(w, row0, x, kp, c, row_tiles, r);
}

template <int TOKENS, class W>
void few(const W& w, int64_t row0, int64_t rows, const bf16* x, int64_t kp, float* c, int64_t row_tiles) {
  few_rows<TOKENS>(w, row0, rows, x, kp, c, row_tiles);
}
// FP8 rows share their scales, which are powers of two: (s w) x = w (s x), wherever both are exact.
template <int TOKENS>
bool scale_tokens(const E4m3Rows& w, int64_t row0, int64_t rows, const bf16* x, int64_t kp, bf16* out) {
  if (TOKENS * kp > kMostScaled || !w.share_scales(row0, rows)) return false;
  bool exact = true;
  for (int64_t k0 = 0; k0 < kp; k0 += kSegment) {
    const uint8_t scale = w.scale_of(row0, k0);
    if (scale < 10 || scale > 246) return false;  // s w is not always normal
    const int64_t end = k0 + kSegment < kp ? k0 + kSegment : kp;
    for (int64_t t = 0; t < TOKENS * kp; t += kp) {
      for (int64_t i = t + k0; i < t + end; i += 32) {
        bf16x32 v = load_bf16x32(x + i);
        exact &= scale_exactly(v, scale);
        store(out + i, v);
      }
    }
  }
  return exact;
}
template <int TOKENS>
void few(const E4m3Rows& w, int64_t row0, int64_t rows, const bf16* x, int64_t kp, float* c, int64_t row_tiles) {
  alignas(64) bf16 scaled[kMostScaled];
  if (scale_tokens<TOKENS>(w, row0, rows, x, kp, scaled)) {
    few_rows<TOKENS>(E4m3Units{w.codes, w.k}, row0, rows, scaled, kp, c, row_tiles);
  } else {
    few_rows<TOKENS>(w, row0, rows, x, kp, c, row_tiles);
  }
}

// As block in gemm.h.
template <class W>
void block(const W& w, int64_t row0, int64_t rows, const bf16* x, int64_t tokens, int64_t /*columns*/, int64_t kp,
           float* c, int64_t row_tiles) {
  switch (tokens) {
    case 1: return few<1>(w, row0, rows, x, kp, c, row_tiles);
    case 2: return few<2>(w, row0, rows, x, kp, c, row_tiles);
    case 3: return few<3>(w, row0, rows, x, kp, c, row_tiles);
    case 4: return few<4>(w, row0, rows, x, kp, c, row_tiles);
    case 5: return few<5>(w, row0, rows, x, kp, c, row_tiles);
    case 6: return few<6>(w, row0, rows, x, kp, c, row_tiles);
    case 7: return few<7>(w, row0, rows, x, kp, c, row_tiles);
    case 8: return few<8>(w, row0, rows, x, kp, c, row_tiles);
  }
  alignas(64) bf16 buffer[kPairRows * kPairChunk];
  for (int64_t k0 = 0; k0 < kp; k0 += kPairChunk) {
    const int64_t n = kp - k0 < kPairChunk ? kp - k0 : kPairChunk;
    for (int64_t r = 0; r < rows; r += kPairRows) {
      for (int i = 0; i < kPairRows; ++i) {
        const int64_t row = r + i < rows ? r + i : rows - 1;  // a row too many is the last one again
        for (int64_t j = 0; j < n; j += kSegment) {
          fetch_segment(w, row0 + row + kPairRows, k0 + j);
          fetch_segment<3>(w, row0 + row, k0 + j + kPairAhead / W::kSegmentBytes * kSegment);
          w.decode(row0 + row, k0 + j, buffer + i * kPairChunk + j, 32);
        }
      }
      int64_t t = 0;
      for (; t + kPairTokens <= tokens; t += kPairTokens)
        pair_dots<kPairTokens>(buffer, x + t * kp + k0, kp, n, c, row_tiles, t, r, k0 == 0);
      for (; t + 4 <= tokens; t += 4) pair_dots<4>(buffer, x + t * kp + k0, kp, n, c, row_tiles, t, r, k0 == 0);
      for (; t + 2 <= tokens; t += 2) pair_dots<2>(buffer, x + t * kp + k0, kp, n, c, row_tiles, t, r, k0 == 0);
      if (t < tokens) pair_dots<1>(buffer, x + t * kp + k0, kp, n, c, row_tiles, t, r, k0 == 0);
    }
  }
}

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA
