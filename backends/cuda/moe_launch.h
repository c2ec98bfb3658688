// The launches of moe_experts, in their order; ops/moe_experts_kernel.cu says what each does.
#pragma once

#include "gemm_launch.h"
#include "v4npu/ops/act_quant.h"

namespace v4npu::cuda {

struct Quantised {
  Tensor q, scale;
};

// Room for num_rows rows of n e4m3 with a scale per 128.
inline Quantised room(const Tensor& like, int64_t num_rows, int64_t n) {
  return {bytes(like, num_rows * n), bytes(like, num_rows * ceil_of(n, kSlice))};
}

// Rows of x [num_rows, n], by the kernel of act_quant.
inline Quantised quantise(const Tensor& x, int64_t num_rows, int64_t n) {
  Quantised out = room(x, num_rows, n);
  ActQuantParams p{};
  p.x = pointer<void>(x);
  p.q = static_cast<uint8_t*>(out.q.mutable_data_ptr());
  p.scale = static_cast<uint8_t*>(out.scale.mutable_data_ptr());
  p.num_rows = num_rows, p.n = n, p.block_size = kSlice;
  p.dtype = dtype_of(x);
  const int64_t blocks = ceil_of(num_rows * ceil_of(n, kSlice), kRowWarps);
  run("act_quant", kernel_name("act_quant", p.dtype), p, {blocks}, kRowThreads, x);
  return out;
}

// The lists of every expert; `memory` holds them.
inline Routing route(const Tensor& indices, int64_t num_experts, const GpuExpertPlan& plan, Tensor& memory) {
  Routing r{};
  r.topk_indices = pointer<int32_t>(indices);
  r.num_assignments = indices.numel(), r.num_experts = num_experts;
  r.max_tiles = plan.max_tiles, r.tile_tokens = plan.tile_tokens;
  memory = uninitialised(indices, {3 * num_experts + r.max_tiles + r.num_assignments}, ScalarType::Int);
  r.counts = static_cast<int32_t*>(memory.mutable_data_ptr());
  r.starts = r.counts + num_experts;
  r.tile_starts = r.starts + num_experts;
  r.tiles = r.tile_starts + num_experts;
  r.list = r.tiles + r.max_tiles;
  run("moe_experts", "moe_experts_count", r, {num_experts}, kRowThreads, indices);
  run("moe_experts", "moe_experts_list", r, {num_experts}, kRowThreads, indices);
  return r;
}

// All of moe_experts on checked, dense arguments that its kernels take. `format` is that of the weights: bf16, fp32,
// fp8, fp4.
inline Tensor run_experts(const Tensor& x, const Tensor& indices, const Tensor& weights, const Matrices (&w)[3],
                          const OptTensor (&scale)[3], const std::string& format, double limit, bool quantises) {
  const int64_t tokens = x.size(0), hidden = x.size(1), topk = indices.size(1), width = w[0].stack.size(1);
  const int64_t num_experts = w[0].stack.size(0), assignments = tokens * topk;
  Tensor out = uninitialised(x, {tokens, hidden}, ScalarType::Float);
  if (assignments == 0) return torch::stable::zero_(out);
  const bool float32 = is_float32(x);
  GpuExpertPlan plan = plan_gpu_experts(assignments, num_experts, width, float32, caps_of(x));
  const bool wide = *plan.layout == 'w', whole = wide || *plan.layout == 'n';
  if (whole && !wide && !quantises) plan.layout = "split";  // whose tiles are as many
  const bool clusters = plan.clusters && quantises;
  const bool fused = quantises && (whole || clusters);  // step 4 is the first product's
  Tensor memory, y = uninitialised(x, {assignments, hidden});
  Tensor between = fused ? bytes(x, 0) : uninitialised(x, {assignments, width});
  ExpertGemm p{};
  p.routing = route(indices, num_experts, plan, memory);
  p.topk_weights = pointer<float>(weights);
  p.topk = topk, p.limit = static_cast<float>(limit);
  const auto product = [&](const char* which, const Tensor& from, const std::optional<Quantised>& q, int64_t k,
                           int64_t num_rows, int64_t block_rows) {
    p.x = q ? pointer<void>(q->q) : pointer<void>(from);
    p.x_scale = q ? pointer<uint8_t>(q->scale) : nullptr;
    p.num_rows = num_rows, p.rows_apart = w[*which == 'u' ? 0 : 2].rows_apart, p.k = k;
    const std::string kernel = std::string("moe_experts_") + which +
                               (q         ? "_fp8_"
                                : float32 ? "_fp32_"
                                          : "_bf16_") +
                               format;
    const bool split = *plan.layout == 's';
    const Stages stages({!split, plan.tile_tokens, *which == 'u' ? 2 : 1, q ? 8 : bits_of(x), bits_of(w[0].stack)},
                        !split, x);
    p.stages = stages.count;
    if (clusters && *which == 'u') {
      const Grid grid{plan.max_tiles, ceil_of(num_rows, kSlice) * kClusterBlocks};
      run("moe_experts_sm90", kernel + "_cluster", p, grid, kGemmThreads, x, stages.bytes);
    } else {
      const Grid grid{plan.max_tiles, ceil_of(num_rows, split ? 16 : block_rows)};
      run("moe_experts", kernel + "_" + plan.layout + (float32 ? "_fp32" : ""), p, grid, kGemmThreads, x, stages.bytes);
    }
  };
  const auto weight = [&](int set, int matrix) {
    p.weight[set] = pointer<void>(w[matrix].stack), p.weight_scale[set] = pointer<uint8_t>(scale[matrix]);
  };
  std::optional<Quantised> first, second;
  if (quantises) first = quantise(x, tokens, hidden);
  if (fused) second = room(x, assignments, width);
  p.out = fused ? second->q.mutable_data_ptr() : between.mutable_data_ptr();
  p.out_scale = fused ? static_cast<uint8_t*>(second->scale.mutable_data_ptr()) : nullptr;
  weight(0, 0), weight(1, 1);
  product("up", x, first, hidden, width, 128);
  if (quantises && !fused) second = quantise(between, assignments, width);
  p.out = y.mutable_data_ptr();
  weight(0, 2);
  product("down", between, second, width, hidden, 256);
  const ExpertSum sum{
      p.routing.topk_indices, pointer<void>(y), static_cast<float*>(out.mutable_data_ptr()), hidden, topk, num_experts};
  run("moe_experts", kernel_name("moe_experts_sum", dtype_of(x)), sum, {tokens}, kRowThreads, x);
  return out;
}

}  // namespace v4npu::cuda
