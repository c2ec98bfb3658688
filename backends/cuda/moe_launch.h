// The launches of moe_experts, in their order; ops/moe_experts_kernel.cu says what each does.
#pragma once

#include "gemm_launch.h"
#include "v4npu/ops/act_quant.h"

namespace v4npu::cuda {

// Checked, dense arguments that the kernels take.
struct ExpertCall {
  Tensor x, indices, weights;
  Matrices w1, w3, w2;  // rows of the first two are as far apart
  OptTensor s1, s3, s2, shared;
  const char* format;  // of the weights: bf16, fp32, fp8, fp4
  double limit;
  bool quantises;

  int64_t hidden() const { return x.size(1); }
  int64_t width() const { return w1.stack.size(1); }
  int64_t num_experts() const { return w1.stack.size(0); }
};

// Of one product: values as x has them, or e4m3 with a scale per 128.
struct Rows {
  Tensor values;
  OptTensor scale;
};

inline Rows plain_rows(const Tensor& like, int64_t num_rows, int64_t n) {
  return {uninitialised(like, {num_rows, n}), {}};
}
inline Rows quantised_rows(const Tensor& like, int64_t num_rows, int64_t n) {
  return {bytes(like, num_rows * n), bytes(like, num_rows * ceil_div(n, kSlice))};
}

// Rows of x [num_rows, n], by the kernel of act_quant.
inline Rows quantise(const Tensor& x, int64_t num_rows, int64_t n) {
  Rows out = quantised_rows(x, num_rows, n);
  ActQuantParams p{};
  p.x = pointer<void>(x);
  p.q = writable<uint8_t>(out.values);
  p.scale = writable<uint8_t>(*out.scale);
  p.num_rows = num_rows;
  p.n = n;
  p.block_size = kSlice;
  p.dtype = dtype_of(x);
  const int64_t blocks = ceil_div(num_rows * ceil_div(n, kSlice), kRowWarps);
  run("act_quant", kernel_name("act_quant", p.dtype), p, {blocks}, kRowThreads, x);
  return out;
}

// The lists of every expert; `memory` holds them.
inline Routing route(const Tensor& indices, int64_t num_experts, const GpuExpertPlan& plan, Tensor& memory) {
  Routing r{};
  r.topk_indices = pointer<int32_t>(indices);
  r.num_assignments = indices.numel();
  r.num_experts = num_experts;
  r.max_tiles = plan.max_tiles;
  r.tile_tokens = plan.tile_tokens;
  memory = uninitialised(indices, {3 * num_experts + r.max_tiles + r.num_assignments}, ScalarType::Int);
  r.counts = writable<int32_t>(memory);
  r.starts = r.counts + num_experts;
  r.tile_starts = r.starts + num_experts;
  r.tiles = r.tile_starts + num_experts;
  r.list = r.tiles + r.max_tiles;
  run("moe_experts", "moe_experts_count", r, {num_experts}, kRowThreads, indices);
  run("moe_experts", "moe_experts_list", r, {num_experts}, kRowThreads, indices);
  return r;
}

// Rows of `from` by p.weight: of w1 and w3, with what lies between the products, if `up`, else of w2.
inline void run_product(const ExpertCall& call, const GpuExpertPlan& plan, bool up, const Rows& from, const Rows& to,
                        ExpertGemm p) {
  const Tensor& x = call.x;
  const bool split = plan.layout == ExpertLayout::kSplit, float32 = is_float32(x);
  p.x = pointer<void>(from.values);
  p.x_scale = pointer<uint8_t>(from.scale);
  p.out = to.values.mutable_data_ptr();
  p.out_scale = to.scale ? writable<uint8_t>(*to.scale) : nullptr;
  p.num_rows = up ? call.width() : call.hidden();
  p.rows_apart = up ? call.w1.rows_apart : call.w2.rows_apart;
  p.k = up ? call.hidden() : call.width();
  const bool clusters = up && plan.clusters;
  const int64_t block_rows = split ? 16 : up ? 128 : 256;
  const Grid grid{plan.max_tiles,
                  clusters ? ceil_div(p.num_rows, kSlice) * kClusterBlocks : ceil_div(p.num_rows, block_rows)};
  const GemmSpace space(!split, plan.tile_tokens, up ? 2 : 1, bits_of(from.values), bits_of(call.w1.stack));
  const Stages stages(space, !split, grid.x * grid.y, x);
  p.stages = stages.count;
  const char* rows = from.scale ? "_fp8_" : float32 ? "_fp32_" : "_bf16_";
  const std::string kernel = std::string(up ? "moe_experts_up" : "moe_experts_down") + rows + call.format;
  if (clusters) {
    run("moe_experts_sm90", kernel + "_cluster", p, grid, kGemmThreads, x, stages.bytes);
  } else {
    const std::string variant = std::string("_") + name_of(plan.layout) + (float32 ? "_fp32" : "");
    run("moe_experts", kernel + variant, p, grid, kGemmThreads, x, stages.bytes);
  }
}

// All of moe_experts.
inline Tensor run_experts(const ExpertCall& call) {
  const Tensor& x = call.x;
  const int64_t tokens = x.size(0), topk = call.indices.size(1), assignments = tokens * topk;
  const int64_t hidden = call.hidden(), width = call.width(), num_experts = call.num_experts();
  if (assignments == 0 && call.shared) return torch::stable::clone(*call.shared);
  Tensor out = uninitialised(x, {tokens, hidden}, call.shared ? x.scalar_type() : ScalarType::Float);
  if (assignments == 0) return torch::stable::zero_(out);
  const GpuExpertPlan plan =
      plan_gpu_experts(assignments, num_experts, width, is_float32(x), call.quantises, caps_of(x));
  const bool fused = plan.fuses(call.quantises);
  Tensor memory;
  ExpertGemm p{};
  p.routing = route(call.indices, num_experts, plan, memory);
  p.topk_weights = pointer<float>(call.weights);
  p.topk = topk;
  p.limit = static_cast<float>(call.limit);
  p.weight[0] = pointer<void>(call.w1.stack);
  p.weight[1] = pointer<void>(call.w3.stack);
  p.weight_scale[0] = pointer<uint8_t>(call.s1);
  p.weight_scale[1] = pointer<uint8_t>(call.s3);
  const Rows first = call.quantises ? quantise(x, tokens, hidden) : Rows{x, {}};
  Rows between = fused ? quantised_rows(x, assignments, width) : plain_rows(x, assignments, width);
  run_product(call, plan, true, first, between, p);
  if (call.quantises && !fused) between = quantise(between.values, assignments, width);
  p.weight[0] = pointer<void>(call.w2.stack);
  p.weight_scale[0] = pointer<uint8_t>(call.s2);
  const Rows y = plain_rows(x, assignments, hidden);
  run_product(call, plan, false, between, y, p);
  const ExpertSum sum{p.routing.topk_indices,
                      pointer<void>(y.values),
                      pointer<void>(call.shared),
                      out.mutable_data_ptr(),
                      hidden,
                      topk,
                      num_experts};
  run("moe_experts", kernel_name("moe_experts_sum", dtype_of(x)), sum, {tokens}, kRowThreads, x);
  return out;
}

}  // namespace v4npu::cuda
