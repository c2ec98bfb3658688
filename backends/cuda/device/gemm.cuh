// Products on tensor cores (mma m16n8k16, bf16 with float32 sums): weights are the left operand, 16 rows to a tile,
// tokens the right one, 8 columns to a tile. Operands become bf16 in registers; until then they are as they are stored,
// in shared memory, where they are copied in the background (operands.cuh).
//
// The columns of an mma may be any, if both operands take the same: lane (g, c) has row g, and of every 64 columns the
// 16 from 16 c, so that it reads whole runs (formats.cuh).
//
// A sum is made of slices of 128 columns: each from zero by mma, times its scales, then added in turn. Whether one warp
// has all slices of a sum (many tokens) or eight warps one each in rounds (few tokens) changes no bit; no choice reads
// anything but k and the formats.
#pragma once

#include "operands.cuh"

namespace v4npu::cuda {

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
  template <class Source>
  V4NPU_INLINE void slice(const Operands<Sets>& o, Source& source, int row0, int s) {
    clear();
    // Of float32 operands all products but the largest are summed apart: tensor cores would cut them off beside those.
    constexpr bool kApart = kPlanes<W> > 1 || kPlanes<X> > 1;
    constexpr int kTogether = kPlanes<X> > 1 ? 1 : 2;  // eights of tokens
    float small[kApart ? kTiles : 1][N][4] = {};
    const Scales scales(o, row0, s);
    for (int first = s * kSlice; first < (s + 1) * kSlice && first < o.k; first += kStep) {
      source.next(first);
      if (row0 >= o.num_rows) continue;
      Run w[kTiles][2][kPlanes<W>];
      V4NPU_UNROLL
      for (int m = 0; m < kTiles; ++m) {
        V4NPU_UNROLL
        for (int half = 0; half < 2; ++half) source.w_run(m, half, w[m][half]);
      }
      V4NPU_UNROLL
      for (int from = 0; from < N; from += kTogether) {
        Run x[kTogether][kPlanes<X>];
        V4NPU_UNROLL
        for (int n = 0; n < kTogether; ++n) source.x_run(from + n, x[n]);
        V4NPU_UNROLL
        for (int both = kPlanes<X> + kPlanes<W> - 2; both >= 0; --both) {  // the smallest first
          V4NPU_UNROLL
          for (int p = 0; p < kPlanes<W>; ++p) {
            const int q = both - p;
            if (q < 0 || q >= kPlanes<X>) continue;
            V4NPU_UNROLL
            for (int i = 0; i < kRun / 2; i += 2) {
              V4NPU_UNROLL
              for (int m = 0; m < kTiles; ++m) {
                const auto& [low, high] = w[m];
                const uint32_t a[4] = {low[p].pair[i], high[p].pair[i], low[p].pair[i + 1], high[p].pair[i + 1]};
                V4NPU_UNROLL
                for (int n = 0; n < kTogether; ++n) {
                  const uint32_t b[2] = {x[n][q].pair[i], x[n][q].pair[i + 1]};
                  mma_bf16(kApart && both > 0 ? small[kApart ? m : 0][from + n] : sum[m][from + n], a, b);
                }
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
    scale(scales);
  }

 private:
  // The scales of a slice, a row's and a token's to each lane: of 128x128 blocks of e4m3 weights and of e4m3 rows of x.
  // They are read before the slice is multiplied.
  struct Scales {
    static_assert(kTiles <= 2);
    float w = 1.0f, x[(N + 3) / 4];

    V4NPU_INLINE Scales(const Operands<Sets>& o, int row0, int s) {
      const int slices = (o.k + kSlice - 1) / kSlice, tile = lane_id() / 16;
      if constexpr (W == Format::kFloat8) {
        const int row = row0 + tile / Sets * 16 + lane_id() % 16;
        const uint8_t* of = tile % Sets == 0 ? o.weight_scale[0] : o.weight_scale[Sets - 1];
        if (tile < kTiles && row < o.num_rows) w = e8m0_decode(of[int64_t{(o.scale_row + row) / kSlice} * slices + s]);
      }
      if constexpr (X == Format::kFloat8) {
        V4NPU_UNROLL
        for (int i = 0; i < (N + 3) / 4; ++i) {
          const int token = i * kWarp + lane_id();
          const bool inside = token < N * 8 && o.first_token + token < o.num_tokens;
          x[i] = inside ? e8m0_decode(o.x_scale[int64_t{o.source(token)} * slices + s]) : 1.0f;
        }
      }
    }
  };
  static V4NPU_INLINE float of_lane(float v, int lane) { return bits_float(shuffle(float_bits(v), lane)); }

  // Of e4m3 the sums of a slice, times the product of its scales: one after the other would leave float32's range where
  // both together do not.
  V4NPU_INLINE void scale(const Scales& scales) {
    if constexpr (W == Format::kFloat8 || X == Format::kFloat8) {
      float of_rows[kTiles][2];
      V4NPU_UNROLL
      for (int m = 0; m < kTiles; ++m) {
        V4NPU_UNROLL
        for (int half = 0; half < 2; ++half)
          of_rows[m][half] = W == Format::kFloat8 ? of_lane(scales.w, m * 16 + half * 8 + lane_id() / 4) : 1.0f;
      }
      V4NPU_UNROLL
      for (int n = 0; n < N; ++n) {
        V4NPU_UNROLL
        for (int i = 0; i < 2; ++i) {
          const float of_token =
              X == Format::kFloat8 ? of_lane(scales.x[n / 4], n % 4 * 8 + lane_id() % 4 * 2 + i) : 1.0f;
          V4NPU_UNROLL
          for (int m = 0; m < kTiles; ++m) {
            sum[m][n][i] *= of_rows[m][0] * of_token;
            sum[m][n][2 + i] *= of_rows[m][1] * of_token;
          }
        }
      }
    }
  }
};

// All slices of the rows from row0 on, added in turn.
template <Format X, Format W, int Sets, int M, int N>
V4NPU_INLINE void wide_sums(const Operands<Sets>& o, int row0, Tile<X, W, Sets, M, N>& total) {
  SourceOf<X, W, Sets, M, N, true> source{o, row0};
  Tile<X, W, Sets, M, N> part;
  total.clear();
  for (int s = 0; s * kSlice < o.k; ++s) {
    part.slice(o, source, row0, s);
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
V4NPU_INLINE void gemm_wide(const Operands<Sets>& o, int row_tile, const Emit& emit) {
  const int row0 = (row_tile * kGemmWarps + warp_id()) * 16 * M;
  Tile<X, W, Sets, M, N> total;
  wide_sums(o, row0, total);
  V4NPU_UNROLL
  for (int m = 0; m < M; ++m) {
    V4NPU_UNROLL
    for (int n = 0; n < N; ++n) {
      V4NPU_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = row0 + m * 16 + i / 2 * 8 + lane_id() / 4;
        const int token = o.first_token + n * 8 + lane_id() % 4 * 2 + i % 2;
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
V4NPU_INLINE void split_sums(const Operands<Sets>& o, int row_tile, float (&total)[Sets]) {
  auto& parts = shared<SplitParts<Sets>>();
  const int row0 = row_tile * 16, slices = (o.k + kSlice - 1) / kSlice;
  SourceOf<X, W, Sets, 1, 2, false> source{o, row0};
  for (int first = 0; first < slices; first += kGemmWarps) {
    if (first > 0) sync_block();  // the parts before are added
    if (first + warp_id() < slices) {
      Tile<X, W, Sets, 1, 2> part;
      part.slice(o, source, row0, first + warp_id());
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
V4NPU_INLINE void gemm_split(const Operands<Sets>& o, int row_tile, const Emit& emit) {
  float total[Sets] = {};
  split_sums<X, W, Sets>(o, row_tile, total);
  const int row = row_tile * 16 + thread_id() % 16, token = o.first_token + thread_id() / 16;
  if (row < o.num_rows && token < o.num_tokens) emit(row, token, total);
}

// A whole Gemm: blocks (x: tiles of rows, for each tile of tokens; y: groups). Tokens may be more than a grid's y
// holds.
template <Format X, Format W, bool Split>
V4NPU_DEVICE void gemm(const Gemm& p) {
  constexpr int kTokens = Split ? 16 : kWideTokens, kRows = Split ? 16 : 256;
  const int tiles = static_cast<int>((p.num_rows + kRows - 1) / kRows), row_tile = block_x() % tiles;
  const int64_t z = block_y();
  const Operands<1> o{row_of<X>(p.x, 1, z * p.group_x),
                      p.x_scale,
                      nullptr,
                      {row_of<W>(p.weight, z * p.group_rows, p.k)},
                      {p.weight_scale},
                      block_x() / tiles * kTokens,
                      static_cast<int>(p.num_tokens),
                      static_cast<int>(p.num_rows),
                      static_cast<int>(p.k),
                      static_cast<int>(p.x_stride),
                      static_cast<int>(z * p.group_rows),
                      p.stages};
  const auto emit = [&](int64_t row, int64_t token, const float (&v)[1]) {
    const int64_t at = z * p.group_out + token * p.out_stride + row;
    if (p.out_float32) {
      static_cast<float*>(p.out)[at] = v[0];
    } else {
      static_cast<bf16*>(p.out)[at] = narrow<bf16>(v[0]);
    }
  };
  if constexpr (Split) {
    gemm_split<X, W, 1>(o, row_tile, emit);
  } else {
    gemm_wide<X, W, 1, 2, kWideTokens / 8>(o, row_tile, emit);
  }
}

}  // namespace v4npu::cuda
