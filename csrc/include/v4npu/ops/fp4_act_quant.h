// fp4_act_quant: FP4 with one power-of-two scale per block of the last axis. Byte-exact in every backend.
//   scale[r,b] = 2^ceil(log2(max(amax, 6*2^-126) / 6)),   q[r,i] = e2m1(x[r,i] / scale[r, i / block_size])
// Steps (formats.h has the arithmetic):
//   1 amax = max |x| over the block, fp32   2 scale by the bit trick on fp32(max(amax, floor) * fp32(1/6))
//   3 clamp(x / scale, -6, 6)   4 round to e2m1, nearest, ties to the even code
//   5 pack two to a byte, the low nibble holds the even index
// The scale is at most 2^127, which infinity gets. e2m1 has no NaN: a block with one has scale 255, which is NaN, and
// any codes.
#pragma once

#include <cstdint>

#include "v4npu/dtype.h"

namespace v4npu {

// T = the dtype of the activations: fp32, fp64, bf16 or fp16. Rows are contiguous.
struct Fp4ActQuantParams {
  const void* x;   // T       [num_rows, n]
  uint8_t* q;      // 2x e2m1 [num_rows, n/2]
  uint8_t* scale;  // ue8m0   [num_rows, ceil(n/block_size)]
  int64_t num_rows;
  int64_t n;           // even
  int64_t block_size;  // elements
  Dtype dtype;         // T
};

}  // namespace v4npu
