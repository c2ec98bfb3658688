// Rows of x times rows of w in float32, for gate, hash_gate, hc_pre and hc_head. A thread that has several tokens
// widens a block of columns of 8 of them into 32 KiB of stack.
//
// The order of a sum depends on its length k alone: blocks of 1024 columns, each added in 16 lanes and then across
// them, added to a float in turn. Tiles only decide which sums run side by side, so that a loaded value is used more
// than once.
#pragma once

#include "parallel.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

constexpr int64_t kColumns = 1024;
constexpr int kTileSums = kRegisters * 3 / 4;            // the rest hold what is multiplied
constexpr int kMaxTokens = kRegisters >= 32 ? 8 : 2;     // of a tile
constexpr int kNarrow = 32;                              // rows whose columns half as many tokens may read again
constexpr int kMaxRows = kTileSums < 8 ? kTileSums : 8;  // of a tile with one token: streams a prefetcher follows

// out[t][r] += x[t] . w[r] over n <= kColumns columns.
template <int Tokens, int Rows, class X, class W>
V4NPU_INLINE void add_tile(const X* x, int64_t x_stride, const W* const* w, int64_t n, float* out, int64_t out_stride) {
  f32x16 sum[Tokens][Rows];
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) sum[t][r] = zero();
  }
  const auto step = [&](int64_t i, int count) __attribute__((always_inline)) {
    f32x16 b[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) b[r] = load_upto(w[r] + i, count);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      const f32x16 a = load_upto(x + t * x_stride + i, count);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) sum[t][r] = fma(a, b[r], sum[t][r]);
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) step(i, kLanes);
  if (i < n) step(i, static_cast<int>(n - i));
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) out[t * out_stride + r] += reduce_add(sum[t][r]);
  }
}

// One token against rows that lie anywhere: out[r] = x . w[r].
template <int Rows, class X, class W>
void one_token(const X* x, const W* const* w, int64_t k, float* out) {
  for (int r = 0; r < Rows; ++r) out[r] = 0.0f;
  for (int64_t at = 0; at < k; at += kColumns) {
    const W* block[Rows];
    for (int r = 0; r < Rows; ++r) block[r] = w[r] + at;
    add_tile<1, Rows>(x + at, 0, block, k - at < kColumns ? k - at : kColumns, out, 0);
  }
}

template <int Rows, class X, class W>
void one_token_rows(const X* x, const W* w, int64_t rows, int64_t k, float* out) {
  for (; rows >= Rows; rows -= Rows, w += Rows * k, out += Rows) {
    const W* each[Rows];
    for (int r = 0; r < Rows; ++r) each[r] = w + r * k;
    one_token<Rows>(x, each, k, out);
  }
  if constexpr (Rows > 1) {
    if (rows > 0) one_token_rows<Rows / 2>(x, w, rows, k, out);
  }
}

// One block of columns of a tile's tokens, already float32, against all rows.
template <int Tokens, int Rows, class W>
void add_rows(const float* x, int64_t x_stride, const W* w, int64_t rows, int64_t k, int64_t n, float* out,
              int64_t out_stride) {
  for (; rows >= Rows; rows -= Rows, w += Rows * k, out += Rows) {
    const W* each[Rows];
    for (int r = 0; r < Rows; ++r) each[r] = w + r * k;
    add_tile<Tokens, Rows>(x, x_stride, each, n, out, out_stride);
  }
  if constexpr (Rows > 1) {
    if (rows > 0) add_rows<Tokens, Rows / 2>(x, x_stride, w, rows, k, n, out, out_stride);
  }
}

template <int Tokens, class X, class W>
int64_t add_tokens(const X* x, int64_t tokens, int64_t k, int64_t n, const W* w, int64_t rows, float* out,
                   int64_t out_stride) {
  float wide[Tokens * kColumns];
  int64_t t = 0;
  for (; t + Tokens <= tokens; t += Tokens) {
    for (int j = 0; j < Tokens; ++j) {
      for (int64_t i = 0; i < n; i += kLanes)
        store_upto(wide + j * kColumns + i, load_upto(x + (t + j) * k + i, n - i), n - i);
    }
    add_rows<Tokens, (kTileSums / Tokens < 8 ? kTileSums / Tokens : 8)>(wide, kColumns, w, rows, k, n,
                                                                        out + t * out_stride, out_stride);
  }
  if constexpr (Tokens > 1) {
    if (t < tokens) t += add_tokens<Tokens / 2>(x + t * k, tokens - t, k, n, w, rows, out + t * out_stride, out_stride);
  }
  return t;
}

// out[t][r] = x[t] . w[r] for contiguous rows of k columns. The columns are the outer loop, so that a block of w stays
// in the second cache while every token passes it.
template <class X, class W>
void products(const X* x, int64_t tokens, const W* w, int64_t rows, int64_t k, float* out, int64_t out_stride) {
  if (tokens == 1) return one_token_rows<kMaxRows>(x, w, rows, k, out);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) out[t * out_stride + r] = 0.0f;
  }
  for (int64_t at = 0; at < k; at += kColumns) {
    const int64_t n = k - at < kColumns ? k - at : kColumns;
    if (kMaxTokens > 2 && rows <= kNarrow) {
      add_tokens<kMaxTokens / 2>(x + at, tokens, k, n, w + at, rows, out, out_stride);
    } else {
      add_tokens<kMaxTokens>(x + at, tokens, k, n, w + at, rows, out, out_stride);
    }
  }
}

constexpr int64_t kFewTokens = 16;  // fewer cannot make up for every thread reading all of w
constexpr int64_t kGroup = 64;      // tokens that share a block of w and are finished while they are in a cache

// out [tokens, rows] = x w^T, then finish(t) for every token.
template <class X, class W, class Finish>
V4NPU_INLINE void products_then(const X* x, int64_t tokens, const W* w, int64_t rows, int64_t k, float* out,
                                const Finish& finish) {
  if (tokens <= kFewTokens) {
    parallel_rows(rows, tokens * k, [&](int64_t begin, int64_t end) {
      products(x, tokens, w + begin * k, end - begin, k, out + begin, rows);
    });
    parallel_rows(tokens, 2 * k, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) finish(t);
    });
    return;
  }
  parallel_rows(tokens, rows * k, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kGroup) {
      const int64_t last = end - first < kGroup ? end : first + kGroup;
      products(x + first * k, last - first, w, rows, k, out + first * rows, rows);
      for (int64_t t = first; t < last; ++t) finish(t);
    }
  });
}

}  // namespace v4npu::cpu::V4NPU_ISA
