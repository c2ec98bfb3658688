// What the kernels of moe_experts share, whatever the architecture: whose tile a block has, and what is between the
// products.
#pragma once

#include "gemm.cuh"
#include "quant.cuh"
#include "swiglu.cuh"

namespace v4npu::cuda {

struct TileRows {
  int32_t of[kWideTokens];
};

// The operands of tile block_x() of tokens, which is expert e's.
template <Format X, Format W, int Sets>
V4NPU_INLINE Operands<Sets> expert_operands(const ExpertGemm& p, int32_t e) {
  const Routing& r = p.routing;
  const int64_t start = r.starts[e], slices = (p.k + kSlice - 1) / kSlice;
  const int64_t scales = W == Format::kFloat4   ? p.num_rows * (p.k / 32)
                         : W == Format::kFloat8 ? (p.num_rows + kSlice - 1) / kSlice * slices
                                                : 0;
  Operands<Sets> o{};
  o.x = Sets == 2 ? p.x : row_of<X>(p.x, start, p.k);
  o.x_scale = X != Format::kFloat8 ? nullptr : Sets == 2 ? p.x_scale : p.x_scale + start * slices;
  for (int set = 0; set < Sets; ++set) {
    o.weight[set] = row_of<W>(p.weight[set], e * p.rows_apart, p.k);
    o.weight_scale[set] = p.weight_scale[set] + e * scales;
  }
  o.first_token = (block_x() - r.tile_starts[e]) * static_cast<int>(r.tile_tokens);
  o.num_tokens = r.counts[e];
  o.num_rows = static_cast<int>(p.num_rows);
  o.k = o.x_stride = static_cast<int>(p.k);
  o.stages = p.stages;
  if constexpr (Sets == 2) {  // gathered
    auto& rows = shared<TileRows>();
    if (thread_id() < r.tile_tokens && o.first_token + thread_id() < o.num_tokens)
      rows.of[thread_id()] = r.list[start + o.first_token + thread_id()] / static_cast<int32_t>(p.topk);
    sync_block();
    o.rows = rows.of;
  }
  return o;
}

// 2, 3 of the assignment at place `at` of the list; T: the dtype of x.
template <class T = bf16>
V4NPU_INLINE float activated(const ExpertGemm& p, int64_t at, float gate, float up) {
  return gated(rounded<T>(gate), rounded<T>(up), p.limit) * p.topk_weights[p.routing.list[at]];
}

// 4 of one value y of 128 whose largest is `peak`; one of them writes the scale.
V4NPU_INLINE void store_quantised(const ExpertGemm& p, int64_t at, int64_t row, float y, float peak) {
  const uint8_t scale = e4m3_block_scale(peak);
  static_cast<uint8_t*>(p.out)[at * p.num_rows + row] = e4m3_encode(y * e8m0_inverse(scale));
  if (row % kSlice == 0) p.out_scale[at * ((p.num_rows + kSlice - 1) / kSlice) + row / kSlice] = scale;
}

}  // namespace v4npu::cuda
