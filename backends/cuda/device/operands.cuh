// What a block multiplies, and how its warps come by it, step by step: 64 columns at a time.
#pragma once

#include "staging.cuh"

namespace v4npu::cuda {

// Sets = 2: two matrices of weights side by side, rows alike (gate and up of an expert).
template <int Sets>
struct Operands {
  const void* x;
  const uint8_t* x_scale;
  const int32_t* rows;  // of x, of the tile's tokens; null: x's own order
  const void* weight[Sets];
  const uint8_t* weight_scale[Sets];
  int first_token, num_tokens, num_rows, k, x_stride;  // first_token: of the tile
  int scale_row;                                       // of row 0 in weight_scale, where it is per 128x128
  int stages;

  V4NPU_INLINE int source(int token) const { return rows != nullptr ? rows[token] : first_token + token; }
  // Of a token of the tile, of a row of weights; null behind the last.
  template <Format X>
  V4NPU_INLINE const void* x_row(int token) const {
    return first_token + token < num_tokens ? row_of<X>(x, source(token), x_stride) : nullptr;
  }
  template <Format W>
  V4NPU_INLINE const void* w_row(int set, int row) const {
    return row < num_rows ? row_of<W>(weight[set], row, k) : nullptr;
  }
  V4NPU_INLINE const uint8_t* fp4_scales(int set, int row) const { return weight_scale[set] + int64_t{row} * (k / 32); }

  // Whether rows can be read 16 bytes at a time.
  template <Format X>
  V4NPU_INLINE bool x_aligned() const {
    return rows_aligned<X>(x, x_stride);
  }
  template <Format W>
  V4NPU_INLINE bool w_aligned() const {
    return rows_aligned<W>(weight[0], k) && rows_aligned<W>(weight[Sets - 1], k);
  }
};

// Straight from memory: what would take too much of shared memory (GemmSpace).
template <Format X, Format W, int Sets>
struct Direct {
  const Operands<Sets>& o;
  const int row0;  // of the warp
  const bool x_aligned = o.template x_aligned<X>(), w_aligned = o.template w_aligned<W>();
  int first = 0;  // column of the step

  V4NPU_INLINE void next(int column) { first = column; }
  // Runs of this lane, of 8 tokens and of 8 rows of a tile.
  V4NPU_INLINE void x_run(int n, Run (&out)[kPlanes<X>]) const {
    load<X>(o.template x_row<X>(n * 8 + lane_id() / 4), nullptr, x_aligned, out);
    V4NPU_UNROLL
    for (int p = 0; p < kPlanes<X>; ++p) pair_like<W>(out[p]);
  }
  V4NPU_INLINE void w_run(int tile, int half, Run (&out)[kPlanes<W>]) const {
    const int row = row0 + tile / Sets * 16 + half * 8 + lane_id() / 4;
    const uint8_t* scales = W == Format::kFloat4 ? o.fp4_scales(tile % Sets, row) : nullptr;
    load<W>(o.template w_row<W>(tile % Sets, row), scales, w_aligned, out);
  }

 private:
  template <Format F>
  V4NPU_INLINE void load(const void* row, const uint8_t* scales, bool aligned, Run (&out)[kPlanes<F>]) const {
    if (row != nullptr) {
      load_run<F>(row, scales, first + lane_id() % 4 * kRun, o.k, aligned, out);
    } else {
      V4NPU_UNROLL
      for (int p = 0; p < kPlanes<F>; ++p) out[p] = {};
    }
  }
};

// Through shared memory, `o.stages` - 1 steps ahead. Wide: the warps share the tokens, which one of them copies for all
// and, where they are e4m3, makes bf16 for all. Else a warp has slices and stages of its own.
template <Format X, Format W, int Sets, int M, int N, bool Wide>
class Staged {
  static constexpr GemmSpace kSpace{Wide, N * 8, Sets, kBits<X>, kBits<W>};
  static constexpr int kTiles = M * Sets, kTileBytes = 2 * kGroupBytes<W> + (W == Format::kFloat4 ? 64 : 0);
  static constexpr bool kWidens = Wide && X == Format::kFloat8;
  static constexpr int kTokenBytes = N * kGroupBytes<X>, kOwnBytes = kTiles * kTileBytes;
  static_assert(kSpace.stage == (Wide ? kTokenBytes : kGemmWarps * kTokenBytes) + kGemmWarps * kOwnBytes);
  static_assert(kSpace.widened == (kWidens ? 2 * N * kGroupBytes<Format::kBfloat16> : 0));

 public:
  V4NPU_INLINE Staged(const Operands<Sets>& operands, int first_row) : o(operands), row0(first_row) {
    for (int i = 1; i < o.stages; ++i) copy();
  }

  // Until the operands of the next step are there; those of the step before are given up.
  V4NPU_INLINE void next(int column) {
    wait_copies_but(o.stages - 2);
    used = used + 1 == o.stages ? 0 : used + 1;
    half = column / kStep % 2;
    if constexpr (kWidens) {
      if (warp_id() < N) {  // what this lane copied itself
        Run run;
        staged_run<X>(tokens(used) + warp_id() * kGroupBytes<X>, 0, run);
        pair_like<W>(run);
        store_staged_run(widened() + warp_id() * kGroupBytes<Format::kBfloat16>, run);
      }
    }
    if constexpr (Wide) {
      sync_block();
    } else {
      sync_warp();
    }
    copy();
  }
  V4NPU_INLINE void x_run(int n, Run (&out)[1]) const {
    if constexpr (kWidens) {
      staged_run<Format::kBfloat16>(widened() + n * kGroupBytes<Format::kBfloat16>, 0, out[0]);
    } else {
      staged_run<X>(tokens(used) + n * kGroupBytes<X>, 0, out[0]);
      pair_like<W>(out[0]);
    }
  }
  V4NPU_INLINE void w_run(int tile, int eight, Run (&out)[1]) const {
    const unsigned char* at = weights(used) + tile * kTileBytes;
    uint8_t scale = 0;
    if constexpr (W == Format::kFloat4)
      scale = at[2 * kGroupBytes<W> + (eight * 8 + lane_id() / 4) * 4 + half * 2 + lane_id() % 4 / 2];
    staged_run<W>(at + eight * kGroupBytes<W>, scale, out[0]);
  }

 private:
  V4NPU_INLINE unsigned char* stage(int i) const { return dynamic_shared() + kSpace.widened + i * kSpace.stage; }
  V4NPU_INLINE unsigned char* tokens(int i) const {
    return stage(i) + (Wide ? 0 : warp_id() * (kTokenBytes + kOwnBytes));
  }
  V4NPU_INLINE unsigned char* weights(int i) const {
    return tokens(i) + kTokenBytes + (Wide ? warp_id() * kOwnBytes : 0);
  }
  V4NPU_INLINE unsigned char* widened() const { return dynamic_shared() + (half * N * kGroupBytes<Format::kBfloat16>); }

  // Begins to copy a step more, if there is one.
  V4NPU_INLINE void copy() {
    const int first = Wide ? copied * kStep : (copied / 2 * kGemmWarps + warp_id()) * kSlice + copied % 2 * kStep;
    if (first < o.k) {
      unsigned char* to = tokens(free);
      if constexpr (Wide) {
        const auto row = [&](int i) { return o.template x_row<X>(warp_id() * 8 + i); };
        if (warp_id() < N) copy_rows<X, 8>(to + warp_id() * kGroupBytes<X>, row, first, o.k, x_aligned);
      } else {
        copy_rows<X, N * 8>(to, [&](int i) { return o.template x_row<X>(i); }, first, o.k, x_aligned);
      }
      to = weights(free);
      V4NPU_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        const auto row = [&](int i) { return o.template w_row<W>(t % Sets, row0 + t / Sets * 16 + i); };
        copy_rows<W, 16>(to + t * kTileBytes, row, first, o.k, w_aligned);
        if constexpr (W == Format::kFloat4) copy_scales(to + t * kTileBytes + 2 * kGroupBytes<W>, t, first);
      }
    }
    commit_copies();
    ++copied;
    free = free + 1 == o.stages ? 0 : free + 1;
  }
  // Of the slice of column `first`, of the 16 rows of tile t.
  V4NPU_INLINE void copy_scales(unsigned char* to, int t, int first) {
    const int row = row0 + t / Sets * 16 + lane_id(), at = first / kSlice * 4;
    if (lane_id() >= 16) return;
    const uint8_t* from = o.fp4_scales(t % Sets, row) + at;
    if (scales_aligned) return copy_async<4>(to + lane_id() * 4, from, row < o.num_rows);
    for (int i = 0; i < 4; ++i) to[lane_id() * 4 + i] = row < o.num_rows && at + i < o.k / 32 ? from[i] : uint8_t{0};
  }

  const Operands<Sets>& o;
  const int row0;  // of the warp
  const bool x_aligned = o.template x_aligned<X>() && o.k * kBits<X> % 128 == 0;
  const bool w_aligned = o.template w_aligned<W>();
  const bool scales_aligned = o.k % kSlice == 0 && reinterpret_cast<uintptr_t>(o.weight_scale[0]) % 4 == 0 &&
                              reinterpret_cast<uintptr_t>(o.weight_scale[Sets - 1]) % 4 == 0;
  int copied = 0;                               // steps
  int free = 0, used = o.stages - 1, half = 0;  // stages; which half of its slice the step is
};

template <Format X, Format W, int Sets, int M, int N, bool Wide>
using SourceOf = typename Choice<GemmSpace(Wide, N * 8, Sets, kBits<X>, kBits<W>).staged,
                                 Staged<X, W, Sets, M, N, Wide>, Direct<X, W, Sets>>::Type;

}  // namespace v4npu::cuda
