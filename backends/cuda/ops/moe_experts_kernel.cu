// moe_experts on CUDA (sm_80 and later). Nothing is read by the host:
//   moe_experts_count, _list      a block per expert: its assignments, in ascending order, and its tiles of tokens
//   (act_quant)                   1 quantise x
//   moe_experts_up_<x>_<weight>   2, 3 both products of a tile, SwiGLU and routing weight; tokens gathered by the list
//                                 4 quantise: a block of 128 rows is one of act_quant's, so its warps agree on the
//                                 scale
//   (act_quant)                   4 behind the split layout, whose blocks have 16 rows; sm_90 and later have
//                                 moe_experts_kernel_sm90.cu instead of both
//   moe_experts_down_...          5 the third product, to the place of its assignment
//   moe_experts_sum               6, 7 a block per token
// Products as in gemm.cuh: split (16 rows, 16 tokens), narrow (128 or 256 rows, 16 tokens) or wide (likewise, 32
// tokens), with the same bits. float32 x, ..._split_fp32, has only the split layout.
// Limits: 240 registers, 0 bytes of stack, 17536 bytes of shared memory.
#include "v4npu/ops/moe_experts.h"

#include "../device/experts.cuh"

namespace v4npu::cuda {

V4NPU_INLINE int64_t expert_of(const Routing& r, int64_t assignment) {
  const int32_t e = r.topk_indices[assignment];
  return e >= 0 && e < r.num_experts ? e : 0;
}

struct Counts {
  int32_t of[2][kRowWarps];
};

// The sum over a block; all get it. `parts` holds nothing before.
V4NPU_INLINE int32_t block_count(int32_t v, int32_t* parts) {
  V4NPU_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    v += static_cast<int32_t>(shuffle_xor(static_cast<uint32_t>(v), mask));
  if (lane_id() == 0) parts[warp_id()] = v;
  sync_block();
  int32_t sum = 0;
  for (int w = 0; w < kRowWarps; ++w) sum += parts[w];
  return sum;
}

V4NPU_DEVICE void count(const Routing& r) {
  auto& counts = shared<Counts>();
  const int64_t e = block_x();
  for (int64_t i = e * kRowThreads + thread_id(); i < r.max_tiles; i += r.num_experts * kRowThreads) r.tiles[i] = -1;
  int32_t mine = 0;
  for (int64_t a = thread_id(); a < r.num_assignments; a += kRowThreads) mine += expert_of(r, a) == e;
  const int32_t all = block_count(mine, counts.of[0]);
  if (thread_id() == 0) r.counts[e] = all;
}

V4NPU_DEVICE void list(const Routing& r) {
  auto& counts = shared<Counts>();
  const int64_t e = block_x();
  const auto tiles_of = [&](int64_t i) {
    return static_cast<int32_t>((r.counts[i] + r.tile_tokens - 1) / r.tile_tokens);
  };
  int32_t before = 0, tiles_before = 0;
  for (int64_t i = thread_id(); i < e; i += kRowThreads) {
    before += r.counts[i];
    tiles_before += tiles_of(i);
  }
  int32_t at = block_count(before, counts.of[0]);
  const int32_t first_tile = block_count(tiles_before, counts.of[1]);
  if (thread_id() == 0) {
    r.starts[e] = at;
    r.tile_starts[e] = first_tile;
  }
  for (int32_t i = thread_id(); i < tiles_of(e); i += kRowThreads) r.tiles[first_tile + i] = static_cast<int32_t>(e);
  for (int64_t base = 0; base < r.num_assignments; base += kRowThreads) {
    const int64_t a = base + thread_id();
    const bool mine = a < r.num_assignments && expert_of(r, a) == e;
    const uint32_t lanes = ballot(mine);
    int32_t rank = rank_in(lanes);
    if (base > 0) sync_block();  // the counts before are read
    if (lane_id() == 0) counts.of[0][warp_id()] = count_bits(lanes);
    sync_block();
    for (int w = 0; w < kRowWarps; ++w) {
      if (w < warp_id()) rank += counts.of[0][w];
    }
    if (mine) r.list[at + rank] = static_cast<int32_t>(a);
    for (int w = 0; w < kRowWarps; ++w) at += counts.of[0][w];
  }
}

template <int N>
struct Peaks {
  float of[kGemmWarps][N * 8];
};

// Steps 2 to 4 of a block's 128 rows and 8 N tokens, which begin at `start` of the list.
template <Format W, int N>
V4NPU_INLINE void up_quantised(const ExpertGemm& p, const Operands<2>& o, int64_t start, int row_tile) {
  auto& peaks = shared<Peaks<N>>();
  const int g = lane_id() / 4, c = lane_id() % 4;
  const int row0 = (row_tile * kGemmWarps + warp_id()) * 16;
  Tile<Format::kFloat8, W, 2, 1, N> total;
  wide_sums(o, row0, total);
  V4NPU_UNROLL
  for (int n = 0; n < N; ++n) {
    V4NPU_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int column = n * 8 + 2 * c + i;
      const int64_t token = o.first_token + column;
      float peak = 0.0f;
      V4NPU_UNROLL
      for (int half = 0; half < 2; ++half) {
        float& y = total.sum[0][n][2 * half + i];
        if (row0 + half * 8 + g >= o.num_rows || token >= o.num_tokens) continue;
        y = rounded<bf16>(activated(p, start + token, y, total.sum[1][n][2 * half + i]));
        peak = larger_or_nan(peak, magnitude(y));
      }
      V4NPU_UNROLL
      for (int mask = 4; mask < kWarp; mask *= 2)
        peak = larger_or_nan(peak, bits_float(shuffle_xor(float_bits(peak), mask)));
      if (g == 0) peaks.of[warp_id()][column] = peak;
    }
  }
  sync_block();
  V4NPU_UNROLL
  for (int n = 0; n < N; ++n) {
    V4NPU_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int column = n * 8 + 2 * c + i;
      const int64_t token = o.first_token + column, at = start + token;
      if (token >= o.num_tokens) continue;
      float peak = 0.0f;
      V4NPU_UNROLL
      for (int w = 0; w < kGemmWarps; ++w) peak = larger_or_nan(peak, peaks.of[w][column]);
      V4NPU_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t row = row0 + half * 8 + g;
        if (row < o.num_rows) store_quantised(p, at, row, total.sum[0][n][2 * half + i], peak);
      }
    }
  }
}

enum class Layout { kSplit, kNarrow, kWide };

// One tile of tokens of one expert; T: the dtype of moe_experts' x. Grid: tiles of tokens, tiles of rows.
template <Format X, Format W, int Sets, Layout L, class T>
V4NPU_DEVICE void expert(const ExpertGemm& p) {
  const Routing& r = p.routing;
  const int32_t e = r.tiles[block_x()];
  if (e < 0) return;
  const int64_t start = r.starts[e];
  const Operands<Sets> o = expert_operands<X, W, Sets>(p, e);
  constexpr int kTiles = L == Layout::kWide ? kWideTokens / 8 : 2;
  if constexpr (X == Format::kFloat8 && Sets == 2 && L != Layout::kSplit) {
    up_quantised<W, kTiles>(p, o, start, block_y());
  } else {
    const auto emit = [&](int64_t row, int64_t token, const float (&v)[Sets]) {
      float y = v[0];
      int64_t at = start + token;
      if constexpr (Sets == 2) {
        y = activated<T>(p, at, y, v[1]);
      } else {
        at = r.list[at];
      }
      static_cast<T*>(p.out)[at * p.num_rows + row] = narrow<T>(y);
    };
    if constexpr (L == Layout::kSplit) {
      gemm_split<X, W, Sets>(o, block_y(), emit);
    } else {
      gemm_wide<X, W, Sets, 2 / Sets, kTiles>(o, block_y(), emit);
    }
  }
}

struct Order {
  int32_t slot[kMaxTopk];
  bool bad[kMaxTopk];
};

template <class T>
V4NPU_DEVICE void sum(const ExpertSum& p) {
  auto& order = shared<Order>();
  const int64_t t = block_x();
  const int32_t* indices = p.topk_indices + t * p.topk;
  if (thread_id() < p.topk) {
    const int i = thread_id();
    int rank = 0;
    for (int j = 0; j < p.topk; ++j) rank += indices[j] < indices[i] || (indices[j] == indices[i] && j < i);
    order.slot[rank] = i;
    order.bad[rank] = indices[i] < 0 || indices[i] >= p.num_experts;
  }
  sync_block();
  const T* y = static_cast<const T*>(p.y) + t * p.topk * p.hidden_size;
  float* out = static_cast<float*>(p.out) + t * p.hidden_size;
  T* rounded = static_cast<T*>(p.out) + t * p.hidden_size;
  const T* from_shared = static_cast<const T*>(p.shared) + t * p.hidden_size;
  const bool pieces = in_pieces(y, p.hidden_size) && in_pieces(p.out, p.hidden_size) &&
                      (p.shared == nullptr || in_pieces(from_shared, p.hidden_size));
  for (int64_t i = thread_id() * kChunk; i < p.hidden_size; i += kRowThreads * kChunk) {
    float total[kChunk] = {};
    for (int64_t j = 0; j < p.topk; ++j) {  // 6 ascending
      float v[kChunk];
      load_chunk(y + order.slot[j] * p.hidden_size, i, p.hidden_size, pieces, v);
      V4NPU_UNROLL
      for (int c = 0; c < kChunk; ++c) total[c] += order.bad[j] ? bits_float(0x7fc00000) : v[c];
    }
    if (p.shared == nullptr) {
      store_chunk(out, i, p.hidden_size, pieces, total);
      continue;
    }
    float v[kChunk];
    load_chunk(from_shared, i, p.hidden_size, pieces, v);  // 7
    V4NPU_UNROLL
    for (int c = 0; c < kChunk; ++c) total[c] += v[c];
    store_chunk(rounded, i, p.hidden_size, pieces, total);
  }
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(moe_experts_count, v4npu::cuda::kRowThreads, v4npu::cuda::Routing) { v4npu::cuda::count(p); }
V4NPU_KERNEL(moe_experts_list, v4npu::cuda::kRowThreads, v4npu::cuda::Routing) { v4npu::cuda::list(p); }
V4NPU_KERNEL(moe_experts_sum_bf16, v4npu::cuda::kRowThreads, v4npu::cuda::ExpertSum) {
  v4npu::cuda::sum<v4npu::cuda::bf16>(p);
}

V4NPU_KERNEL(moe_experts_sum_fp32, v4npu::cuda::kRowThreads, v4npu::cuda::ExpertSum) { v4npu::cuda::sum<float>(p); }

#define V4NPU_EXPERTS(kernel, name, X, W, layout, L, T)                                                   \
  kernel(moe_experts_up_##name##_##layout, v4npu::cuda::kGemmThreads, v4npu::cuda::ExpertGemm) {          \
    v4npu::cuda::expert<v4npu::cuda::Format::X, v4npu::cuda::Format::W, 2, v4npu::cuda::Layout::L, T>(p); \
  }                                                                                                       \
  kernel(moe_experts_down_##name##_##layout, v4npu::cuda::kGemmThreads, v4npu::cuda::ExpertGemm) {        \
    v4npu::cuda::expert<v4npu::cuda::Format::X, v4npu::cuda::Format::W, 1, v4npu::cuda::Layout::L, T>(p); \
  }
#define V4NPU_SPLIT_AND_WIDE(name, X, W)                                           \
  V4NPU_EXPERTS(V4NPU_KERNEL_BY_TWO, name, X, W, split, kSplit, v4npu::cuda::bf16) \
  V4NPU_EXPERTS(V4NPU_KERNEL, name, X, W, wide, kWide, v4npu::cuda::bf16)
V4NPU_SPLIT_AND_WIDE(bf16_bf16, kBfloat16, kBfloat16)
V4NPU_SPLIT_AND_WIDE(bf16_fp8, kBfloat16, kFloat8)
V4NPU_SPLIT_AND_WIDE(bf16_fp4, kBfloat16, kFloat4)
V4NPU_SPLIT_AND_WIDE(fp8_fp8, kFloat8, kFloat8)
V4NPU_SPLIT_AND_WIDE(fp8_fp4, kFloat8, kFloat4)
V4NPU_EXPERTS(V4NPU_KERNEL, fp8_fp8, kFloat8, kFloat8, narrow, kNarrow, v4npu::cuda::bf16)
V4NPU_EXPERTS(V4NPU_KERNEL, fp8_fp4, kFloat8, kFloat4, narrow, kNarrow, v4npu::cuda::bf16)
V4NPU_EXPERTS(V4NPU_KERNEL, fp32_fp32, kFloat32, kFloat32, split_fp32, kSplit, float)
V4NPU_EXPERTS(V4NPU_KERNEL, fp32_bf16, kFloat32, kBfloat16, split_fp32, kSplit, float)
V4NPU_EXPERTS(V4NPU_KERNEL, fp32_fp8, kFloat32, kFloat8, split_fp32, kSplit, float)
V4NPU_EXPERTS(V4NPU_KERNEL, fp32_fp4, kFloat32, kFloat4, split_fp32, kSplit, float)
V4NPU_EXPERTS(V4NPU_KERNEL, fp8_fp8, kFloat8, kFloat8, split_fp32, kSplit, float)
V4NPU_EXPERTS(V4NPU_KERNEL, fp8_fp4, kFloat8, kFloat4, split_fp32, kSplit, float)
#undef V4NPU_SPLIT_AND_WIDE
#undef V4NPU_EXPERTS
