// What a CUDA launcher needs: checks, the fallback, tensors, and the name of the kernel of a dtype.
#pragma once

#include "device/shape.h"
#include "driver.h"
#include "ops/checks.h"
#include "ops/reference.h"
#include "ops/tensors.h"
#include "torch/csrc/stable/library.h"

namespace v4npu::cuda {

// Whether our kernels run on the device of `t`; without them every operator is the reference's.
inline bool runs(const Tensor& t) { return native(t) && caps_of(t).available; }

inline std::string kernel_name(const char* op, Dtype dtype) {
  return std::string(op) + (dtype == Dtype::kFloat32 ? "_fp32" : "_bf16");
}
inline std::string kernel_name(const char* op, Dtype dtype, Dtype weight) {
  return kernel_name(op, dtype) + (weight == Dtype::kFloat32 ? "_fp32" : "_bf16");
}

// Whether every row of packed pages begins at an even address: bfloat16 values lie in it.
inline bool is_even(const Tensor& pages) {
  return pages.scalar_type() != ScalarType::Byte ||
         (pages.stride(0) % 2 == 0 && reinterpret_cast<uintptr_t>(pages.const_data_ptr()) % 2 == 0);
}
inline bool is_even(const OptTensor& pages) { return !pages || is_even(*pages); }

// Whether rows of n values fit a warp's registers in pairs (device/kv_row.cuh).
inline bool is_row(int64_t n) { return n > 0 && n % 2 == 0 && n <= kWarpRow; }

// One launch, unless there is nothing to do.
template <class Params>
void run(const char* op, const std::string& kernel, const Params& p, Grid grid, int threads, const Tensor& on,
         int64_t shared_bytes = 0) {
  if (grid.x > 0 && grid.y > 0 && grid.z > 0) launch(op, kernel, grid, threads, shared_bytes, &p, on);
}

// The kernel of products.cuh. Few tokens are spread over as many blocks as there are rows.
inline void run_products(const char* op, const std::string& kernel, Products p, const Tensor& on) {
  const int64_t tiles = ceil_div(p.num_tokens, kTokenTile);
  p.rows_per_block = tiles * p.num_rows <= 4 * caps_of(on).num_cores ? 1 : 8;
  const int64_t floats = p.rows_per_block * ceil_div(p.k, kColumns) * kTokenTile;
  run(op, kernel, p, {tiles, ceil_div(p.num_rows, p.rows_per_block)}, kRowThreads, on, 4 * floats);
}

}  // namespace v4npu::cuda
