// act_quant: FP8 with one power-of-two scale per block of the last axis. Byte-exact in every backend.
//   scale[r,b] = 2^ceil(log2(max(amax, 1e-4) / 448)),   q[r,i] = e4m3(x[r,i] / scale[r, i / block_size])
// Steps (formats.h has the arithmetic):
//   1 amax = max |x| over the block, fp32; NaN if the block has one. A NaN's own q is NaN
//   2 scale by the bit trick on fp32(max(amax, 1e-4) * fp32(1/448)): exponent, plus 1 if the mantissa is not zero;
//     at most 2^127, which infinity and NaN get
//   3 clamp(x / scale, -448, 448), exact but for the clamp   4 round to e4m3fn, nearest even
// A short last block is a block of its own. Examples: amax 1 -> 2^-8, 448 -> 1, 450 -> 2, all zero -> 2^-22.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct ActQuantParams {
  const void* x;   // T      [num_rows, n]
  uint8_t* q;      // e4m3fn [num_rows, n]
  uint8_t* scale;  // ue8m0  [num_rows, ceil(n/block_size)]
  int64_t num_rows;
  int64_t n;
  int64_t block_size;  // elements
  Dtype dtype;         // T
};

}  // namespace v4npu
