// Products on tensor cores (mma m16n8k16, bf16 with float32 sums): weights are the left operand, 16 rows to a tile,
// tokens the right one, 8 columns to a tile. Operands go from memory to registers, where they become bf16: no shared
// memory, except to add what warps have of the same sums.
//
// The columns of an mma may be any, if both operands take the same: lane (g, c) has row g, and of every 64 columns the
// 16 from 16 c, so that it reads whole runs (formats.cuh).
//
// A sum is made of slices of 128 columns: each from zero by mma, times its scales, then added in turn. Whether one warp
// has all slices of a sum (many tokens) or eight warps one each in rounds (few tokens) changes no bit; no choice reads
// anything but k and the formats.
#pragma once

#include "formats.cuh"

namespace v4npu::cuda {

// What a block multiplies. Sets = 2: two matrices of weights side by side, rows alike (gate and up of an expert).
template <int Sets>
struct Operands {
  const void* x;
  const uint8_t* x_scale;
  const int32_t* list;  // the tokens are rows list[i] / list_step of x; null: x's own order
  int64_t list_step;
  const void* weight[Sets];
  const uint8_t* weight_scale[Sets];
  int64_t first_token, num_tokens, num_rows, k, x_stride;  // first_token: of the tile
  int64_t scale_row;                                       // of row 0 in weight_scale, where it is per 128x128

  // Whether rows can be read 16 bytes at a time.
  template <Format X>
  V4NPU_INLINE bool x_aligned() const {
    return rows_aligned<X>(x, x_stride);
  }
  template <Format W>
  V4NPU_INLINE bool w_aligned() const {
    return rows_aligned<W>(weight[0], k) && rows_aligned<W>(weight[Sets - 1], k);
  }
  V4NPU_INLINE int64_t source(int64_t token) const { return list != nullptr ? list[token] / list_step : token; }
};

template <Format X, Format W, int Sets, int M, int N>
struct Tile {
  static constexpr int kTiles = M * Sets;  // tile m * Sets + set
  float sum[kTiles][N][4];

  V4NPU_INLINE void clear() {
    V4NPU_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      V4NPU_UNROLL
      for (int n = 0; n < N; ++n) {
        V4NPU_UNROLL
        for (int i = 0; i < 4; ++i) sum[m][n][i] = 0.0f;
      }
    }
  }

  // One slice from zero, times its scales.
  V4NPU_INLINE void slice(const Operands<Sets>& o, int64_t row0, int64_t s, bool x_aligned, bool w_aligned) {
    clear();
    // Of float32 weights all products but the largest are summed apart: beside those, tensor cores would cut them off.
    constexpr bool kApart = kPlanes<W> > 1;
    float small[kApart ? kTiles : 1][N][4] = {};
    const int g = lane_id() / 4, c = lane_id() % 4;
    for (int64_t first = s * kSlice; first < (s + 1) * kSlice && first < o.k; first += 64) {
      const int64_t k0 = first + c * kRun;
      Run x[N][kPlanes<X>];
      V4NPU_UNROLL
      for (int n = 0; n < N; ++n) {
        const int64_t token = o.first_token + n * 8 + g;
        if (token < o.num_tokens) {
          load_run<X>(row_of<X>(o.x, o.source(token), o.x_stride), nullptr, k0, o.k, x_aligned, x[n]);
        } else {
          V4NPU_UNROLL
          for (int p = 0; p < kPlanes<X>; ++p) x[n][p] = {};
        }
      }
      V4NPU_UNROLL
      for (int m = 0; m < kTiles; ++m) {
        Run w[2][kPlanes<W>];
        V4NPU_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int64_t row = row0 + m / Sets * 16 + half * 8 + g;
          if (row < o.num_rows) {
            const uint8_t* scales = W == Format::kFloat4 ? o.weight_scale[m % Sets] + row * (o.k / 32) : nullptr;
            load_run<W>(row_of<W>(o.weight[m % Sets], row, o.k), scales, k0, o.k, w_aligned, w[half]);
          } else {
            V4NPU_UNROLL
            for (int p = 0; p < kPlanes<W>; ++p) w[half][p] = {};
          }
        }
        V4NPU_UNROLL
        for (int both = kPlanes<X> + kPlanes<W> - 2; both >= 0; --both) {  // the smallest first
          V4NPU_UNROLL
          for (int p = 0; p < kPlanes<W>; ++p) {
            const int q = both - p;
            if (q < 0 || q >= kPlanes<X>) continue;
            V4NPU_UNROLL
            for (int i = 0; i < kRun / 2; i += 2) {
              const uint32_t a[4] = {w[0][p].pair[i], w[1][p].pair[i], w[0][p].pair[i + 1], w[1][p].pair[i + 1]};
              V4NPU_UNROLL
              for (int n = 0; n < N; ++n) {
                const uint32_t b[2] = {x[n][q].pair[i], x[n][q].pair[i + 1]};
                mma_bf16(kApart && both > 0 ? small[kApart ? m : 0][n] : sum[m][n], a, b);
              }
            }
          }
        }
      }
    }
    if constexpr (kApart) {
      V4NPU_UNROLL
      for (int m = 0; m < kTiles; ++m) {
        V4NPU_UNROLL
        for (int n = 0; n < N; ++n) {
          V4NPU_UNROLL
          for (int i = 0; i < 4; ++i) {  // an infinity is the largest's; times a small part of 0 it is NaN
            const bool finite = (float_bits(sum[m][n][i]) & 0x7f800000u) != 0x7f800000u;
            sum[m][n][i] += finite ? small[m][n][i] : 0.0f;
          }
        }
      }
    }
    scale(o, row0, s);
  }

  // Times the scales of slice s: of e4m3 rows of x, and of 128x128 blocks of e4m3 weights.
  V4NPU_INLINE void scale(const Operands<Sets>& o, int64_t row0, int64_t s) {
    const int64_t slices = (o.k + kSlice - 1) / kSlice;
    if constexpr (W == Format::kFloat8) {
      V4NPU_UNROLL
      for (int m = 0; m < kTiles; ++m) {
        V4NPU_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int64_t row = row0 + m / Sets * 16 + half * 8 + lane_id() / 4;
          if (row >= o.num_rows) continue;
          const float factor = e8m0_decode(o.weight_scale[m % Sets][(o.scale_row + row) / kSlice * slices + s]);
          V4NPU_UNROLL
          for (int n = 0; n < N; ++n) {
            sum[m][n][2 * half] *= factor;
            sum[m][n][2 * half + 1] *= factor;
          }
        }
      }
    }
    if constexpr (X == Format::kFloat8) {
      V4NPU_UNROLL
      for (int n = 0; n < N; ++n) {
        V4NPU_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int64_t token = o.first_token + n * 8 + 2 * (lane_id() % 4) + i;
          if (token >= o.num_tokens) continue;
          const float factor = e8m0_decode(o.x_scale[o.source(token) * slices + s]);
          V4NPU_UNROLL
          for (int m = 0; m < kTiles; ++m) {
            sum[m][n][i] *= factor;
            sum[m][n][2 + i] *= factor;
          }
        }
      }
    }
  }
};

// All slices of the rows from row0 on, added in turn.
template <Format X, Format W, int Sets, int M, int N>
V4NPU_INLINE void add_slices(const Operands<Sets>& o, int64_t row0, Tile<X, W, Sets, M, N>& total) {
  const bool x_aligned = o.template x_aligned<X>(), w_aligned = o.template w_aligned<W>();
  Tile<X, W, Sets, M, N> part;
  total.clear();
  for (int64_t s = 0; s * kSlice < o.k; ++s) {
    part.slice(o, row0, s, x_aligned, w_aligned);
    V4NPU_UNROLL
    for (int m = 0; m < M * Sets; ++m) {
      V4NPU_UNROLL
      for (int n = 0; n < N; ++n) {
        V4NPU_UNROLL
        for (int i = 0; i < 4; ++i) total.sum[m][n][i] += part.sum[m][n][i];
      }
    }
  }
}

// Many tokens: a block has 8 warps of 16 M rows each, all of the same 8 N tokens. emit(row, token, value[Sets]).
template <Format X, Format W, int Sets, int M, int N, class Emit>
V4NPU_INLINE void gemm_wide(const Operands<Sets>& o, int64_t row_tile, const Emit& emit) {
  const int64_t row0 = (row_tile * kGemmWarps + warp_id()) * 16 * M;
  if (row0 >= o.num_rows) return;
  Tile<X, W, Sets, M, N> total;
  add_slices(o, row0, total);
  V4NPU_UNROLL
  for (int m = 0; m < M; ++m) {
    V4NPU_UNROLL
    for (int n = 0; n < N; ++n) {
      V4NPU_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int64_t row = row0 + m * 16 + i / 2 * 8 + lane_id() / 4;
        const int64_t token = o.first_token + n * 8 + lane_id() % 4 * 2 + i % 2;
        if (row >= o.num_rows || token >= o.num_tokens) continue;
        float v[Sets];
        V4NPU_UNROLL
        for (int set = 0; set < Sets; ++set) v[set] = total.sum[m * Sets + set][n][i];
        emit(row, token, v);
      }
    }
  }
}

template <int Sets>
struct SplitParts {
  float of[kGemmWarps][Sets][16][17];  // a column more than tokens, so that rows start in different banks
};

// Few tokens: a block has 16 rows and 16 tokens, its warps a slice each in rounds. Thread i gets the sums of row i % 16
// and token i / 16: neighbouring threads have neighbouring rows, which lie side by side in the output.
template <Format X, Format W, int Sets>
V4NPU_INLINE void split_sums(const Operands<Sets>& o, int64_t row_tile, float (&total)[Sets]) {
  auto& parts = shared<SplitParts<Sets>>();
  const int64_t row0 = row_tile * 16, slices = (o.k + kSlice - 1) / kSlice;
  const bool x_aligned = o.template x_aligned<X>(), w_aligned = o.template w_aligned<W>();
  for (int64_t first = 0; first < slices; first += kGemmWarps) {
    if (first > 0) sync_block();  // the parts before are added
    if (first + warp_id() < slices) {
      Tile<X, W, Sets, 1, 2> part;
      part.slice(o, row0, first + warp_id(), x_aligned, w_aligned);
      V4NPU_UNROLL
      for (int set = 0; set < Sets; ++set) {
        V4NPU_UNROLL
        for (int n = 0; n < 2; ++n) {
          V4NPU_UNROLL
          for (int i = 0; i < 4; ++i)
            parts.of[warp_id()][set][i / 2 * 8 + lane_id() / 4][n * 8 + lane_id() % 4 * 2 + i % 2] =
                part.sum[set][n][i];
        }
      }
    }
    sync_block();
    for (int w = 0; w < kGemmWarps && first + w < slices; ++w) {
      V4NPU_UNROLL
      for (int set = 0; set < Sets; ++set) total[set] += parts.of[w][set][thread_id() % 16][thread_id() / 16];
    }
  }
}

template <Format X, Format W, int Sets, class Emit>
V4NPU_INLINE void gemm_split(const Operands<Sets>& o, int64_t row_tile, const Emit& emit) {
  float total[Sets] = {};
  split_sums<X, W, Sets>(o, row_tile, total);
  const int64_t row = row_tile * 16 + thread_id() % 16, token = o.first_token + thread_id() / 16;
  if (row < o.num_rows && token < o.num_tokens) emit(row, token, total);
}

// A whole Gemm: blocks (x: tiles of rows, y: tiles of tokens, z: groups).
template <Format X, Format W, bool Split>
V4NPU_DEVICE void gemm(const Gemm& p) {
  constexpr int kTokens = Split ? 16 : kWideTokens;
  const int64_t z = block_z();
  const Operands<1> o{row_of<X>(p.x, 1, z * p.group_x),
                      p.x_scale,
                      nullptr,
                      1,
                      {row_of<W>(p.weight, z * p.group_rows, p.k)},
                      {p.weight_scale},
                      static_cast<int64_t>(block_y()) * kTokens,
                      p.num_tokens,
                      p.num_rows,
                      p.k,
                      p.x_stride,
                      z * p.group_rows};
  const auto emit = [&](int64_t row, int64_t token, const float (&v)[1]) {
    const int64_t at = z * p.group_out + token * p.out_stride + row;
    if (p.out_float32) {
      static_cast<float*>(p.out)[at] = v[0];
    } else {
      static_cast<bf16*>(p.out)[at] = narrow<bf16>(v[0]);
    }
  };
  if constexpr (Split) {
    gemm_split<X, W, 1>(o, block_x(), emit);
  } else {
    gemm_wide<X, W, 1, 2, kWideTokens / 8>(o, block_x(), emit);
  }
}

}  // namespace v4npu::cuda
