// Rows of x times rows of weights in float32, for gate, hash_gate, hc_pre and hc_head: few rows, so no tensor cores.
//
// The order of a sum depends on its length k alone: pieces of 1024 columns, each added by one warp (8 sums a lane, then
// the lanes), and the pieces added in turn. A block takes 8 tokens and some rows; its warps share the pieces.
#pragma once

#include "rows.cuh"

namespace v4npu::cuda {

// x[t] . w over n <= 1024 columns, for `tokens` rows of x: lane t gets the sum of row t.
template <int Tokens, class X, class W>
V4NPU_INLINE float dots(const X* x, int64_t x_stride, int tokens, const W* w, int64_t n, bool x_pieces, bool w_pieces) {
  float mine = 0.0f;
  constexpr int kEach = kColumns / kWarp / kChunk;
  float weights[kEach][kChunk];
  V4NPU_UNROLL
  for (int c = 0; c < kEach; ++c) {
    const int64_t i = (c * kWarp + lane_id()) * kChunk;
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) weights[c][j] = 0.0f;
    if (i < n) load_chunk(w, i, n, w_pieces, weights[c]);
  }
  V4NPU_UNROLL
  for (int t = 0; t < Tokens; ++t) {
    float sum[kChunk] = {};
    V4NPU_UNROLL
    for (int c = 0; c < kEach; ++c) {
      const int64_t i = (c * kWarp + lane_id()) * kChunk;
      if (i >= n || t >= tokens) continue;
      float v[kChunk];
      load_chunk(x + t * x_stride, i, n, x_pieces, v);
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j) sum[j] = fmaf(v[j], weights[c][j], sum[j]);
    }
    const float total = warp_sum(tree_sum(sum));
    mine = lane_id() == t ? total : mine;
  }
  return mine;
}

// Columns of piece b of rows of k.
V4NPU_INLINE int64_t columns_of(int64_t k, int64_t b) {
  return k - b * kColumns < kColumns ? k - b * kColumns : kColumns;
}

// Grid: tiles of tokens, then of rows. Dynamic shared memory: rows_per_block * pieces * 8 floats.
template <class X, class W>
V4NPU_DEVICE void products(const Products& p) {
  auto* parts = reinterpret_cast<float*>(dynamic_shared());
  const int64_t pieces = (p.k + kColumns - 1) / kColumns, first_token = block_x() * kTokenTile;
  const int64_t first_row = block_y() * p.rows_per_block;
  const int64_t rows = p.num_rows - first_row < p.rows_per_block ? p.num_rows - first_row : p.rows_per_block;
  const int tokens =
      static_cast<int>(p.num_tokens - first_token < kTokenTile ? p.num_tokens - first_token : kTokenTile);
  const X* x = static_cast<const X*>(p.x) + first_token * p.k;
  const W* weight = static_cast<const W*>(p.weight) + first_row * p.k;
  const bool x_pieces = in_pieces(x, p.k), w_pieces = in_pieces(weight, p.k);
  for (int64_t task = warp_id(); task < rows * pieces; task += kRowWarps) {
    const int64_t r = task / pieces, b = task % pieces;
    const float sum = dots<kTokenTile>(x + b * kColumns, p.k, tokens, weight + r * p.k + b * kColumns,
                                       columns_of(p.k, b), x_pieces, w_pieces);
    if (lane_id() < kTokenTile) parts[task * kTokenTile + lane_id()] = sum;
  }
  sync_block();
  for (int64_t i = thread_id(); i < rows * tokens; i += kRowThreads) {
    const int64_t t = i / rows, r = i % rows;
    float sum = 0.0f;
    for (int64_t b = 0; b < pieces; ++b) sum += parts[(r * pieces + b) * kTokenTile + t];
    const int64_t at = (first_token + t) * p.num_rows + first_row + r;
    if (p.out_bfloat16) {
      static_cast<bf16*>(p.out)[at] = narrow<bf16>(sum);
    } else {
      static_cast<float*>(p.out)[at] = sum;
    }
  }
}

V4NPU_INLINE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// sqrt(softplus(x))
V4NPU_INLINE float gate_score(float x) { return sqrtf((x > 0.0f ? x : 0.0f) + log1pf(expf(-magnitude(x)))); }

}  // namespace v4npu::cuda
