// hadamard: orthonormal Walsh-Hadamard transform of every row, its own inverse.
//   out[r,i] = n^-0.5 * sum_j (-1)^popcount(i & j) x[r,j]            (Sylvester order)
// Steps:
//   1 widen x to fp32 (fp64 stays)   2 butterflies over bit 0, 1, ... of the index: (a, b) -> (a + b, a - b)
//   3 times n^-0.5   4 one rounding, to the dtype of x
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct HadamardParams {
  const void* x;  // T [num_rows, n]
  void* out;      // T [num_rows, n]
  int64_t num_rows;
  int64_t n;    // a power of two
  Dtype dtype;  // T
};

}  // namespace v4npu
