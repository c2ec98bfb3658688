// What the launchers of products on tensor cores share.
#pragma once

#include "launch.h"
#include "plan/gpu.h"

namespace v4npu::cuda {

// Of a value of a matrix; int8 are pairs of e2m1.
inline int64_t bits_of(const Tensor& t) {
  return t.scalar_type() == ScalarType::Char ? 4 : 8 * static_cast<int64_t>(t.element_size());
}

// Shared memory of a launch of `blocks` for stages of operands, and how many. A block of a wide layout has a
// multiprocessor to itself, for its registers; of a split one there are two, if there are so many.
struct Stages {
  int count;
  int64_t bytes;

  Stages(const GemmSpace& space, bool wide, int64_t blocks, const Tensor& on)
      : count(plan_gpu_stages(space.stage, space.weights, space.widened + space.fixed,
                              wide ? 1 : plan_gpu_blocks(blocks, caps_of(on)), caps_of(on))),
        bytes(space.staged ? space.widened + count * space.stage : 0) {}
};

// `kernel` is <op>_<x>_<weight>; its variant is the plan's, if it may be wide.
inline void run_gemm(const char* op, const std::string& kernel, Gemm p, int64_t groups, const Tensor& x,
                     const Tensor& weight, bool may_be_wide = true) {
  const GpuGemmPlan plan = plan_gpu_gemm(p.num_tokens, p.num_rows, groups, may_be_wide, caps_of(x));
  const Grid grid{plan.row_tiles * plan.token_tiles, groups};
  const GemmSpace space(plan.wide, plan.wide ? kWideTokens : 16, 1, bits_of(x), bits_of(weight));
  const Stages stages(space, plan.wide, grid.x * grid.y, x);
  p.stages = stages.count;
  run(op, kernel + (plan.wide ? "_wide" : "_split"), p, grid, kGemmThreads, x, stages.bytes);
}

// All of fp8_linear and fp4_linear.
inline Tensor launch_quantised(const char* op, const Tensor& x_, const OptTensor& x_scale_, const Tensor& weight_,
                               const Tensor& weight_scale_, ScalarType out_dtype) {
  const bool rounds = !x_scale_ && x_.scalar_type() != out_dtype && out_dtype == ScalarType::BFloat16;
  const Tensor x = dense(rounds ? torch::stable::to(x_, out_dtype) : x_), weight = dense(weight_);
  const Tensor weight_scale = dense(weight_scale_);
  const OptTensor x_scale = dense(x_scale_);
  Gemm p{};
  p.num_tokens = x.size(0);
  p.num_rows = weight.size(0);
  p.k = x.size(1);
  Tensor out = uninitialised(x, {p.num_tokens, p.num_rows}, out_dtype);
  p.x = pointer<void>(x);
  p.weight = pointer<void>(weight);
  p.out = out.mutable_data_ptr();
  p.x_scale = pointer<uint8_t>(x_scale);
  p.weight_scale = pointer<uint8_t>(weight_scale);
  p.x_stride = p.k;
  p.out_stride = p.num_rows;
  p.out_float32 = out_dtype == ScalarType::Float;
  run_gemm(op, x_scale ? std::string(op) + "_fp8" : kernel_name(op, dtype_of(x)), p, 1, x, weight);
  return out;
}

}  // namespace v4npu::cuda
