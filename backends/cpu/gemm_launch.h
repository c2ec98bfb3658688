// What the launchers of products share: the workspace, and all of fp8_linear and fp4_linear.
#pragma once

#include "gemm_workspace.h"
#include "launch.h"
#include "parallel.h"
#include "plan/cpu_tiles.h"

namespace v4npu::cpu {

// The tokens that meet the same weight rows, rows of k; on AMX so many values of these at a time.
template <class Params>
void plan_blocks(Params& p, int64_t k) {
  p.block_tokens[0] = plan_cpu_block_tokens(k, 4, this_cpu());
  p.block_tokens[1] = plan_cpu_block_tokens(isa() == Isa::amx && k > kDecoded ? kDecoded : k, 2, this_cpu());
}

// Sets workspace, num_workers and block_tokens for a product of these sizes; the result owns the memory.
template <class Params>
Tensor reserve(Params& p, const Tensor& x, int64_t tokens, int64_t k, int64_t groups = 1) {
  p.num_workers = num_threads();
  plan_blocks(p, k);
  Tensor workspace = workspace_of(x, gemm_workspace(tokens, k, p.num_workers, groups));
  p.workspace = workspace.mutable_data_ptr();
  return workspace;
}

template <class Params, class Run>
Tensor launch_quantised(Params& p, const Tensor& x_, const OptTensor& x_scale_, const Tensor& weight_,
                        const Tensor& weight_scale_, ScalarType out_dtype, const Run& run) {
  const Tensor x = dense(x_), weight = dense(weight_), weight_scale = dense(weight_scale_);
  const OptTensor x_scale = dense(x_scale_);
  p.num_tokens = x.size(0);
  p.num_rows = weight.size(0);
  p.k = x.size(1);
  Tensor out = uninitialised(x, {p.num_tokens, p.num_rows}, out_dtype);
  const Tensor workspace = reserve(p, x, p.num_tokens, p.k);
  p.x = pointer<void>(x);
  p.x_scale = pointer<uint8_t>(x_scale);
  p.weight = pointer<uint8_t>(weight);
  p.weight_scale = pointer<uint8_t>(weight_scale);
  p.out = out.mutable_data_ptr();
  p.x_dtype = x_scale ? Dtype::kFloat32 : dtype_of(x);
  p.out_dtype = dtype_of(out_dtype);
  run();
  return out;
}

}  // namespace v4npu::cpu
