// What the launchers of matrix products share.
#pragma once

#include "launch.h"

namespace v4npu::ascend {

// Of `groups` products; a group after the other within a row of x and of the result.
struct Product {
  int64_t num_tokens, num_rows, k, groups;
};

// Whether kernels take x of `type` for a result of out_dtype; what is in the limits of common/cube.h.
bool takes(ScalarType type, ScalarType out_dtype, const Product& product);

// `op` of contiguous tensors, [num_tokens, groups, num_rows]; with a scale, the vector cores expand the weight.
Tensor launch_product(const std::string& op, const Product& product, const Tensor& x, const Tensor& weight,
                      const OptTensor& scale, ScalarType out_dtype);

// x as bf16, which holds it exactly: codes with a scale for 128 values of a row.
Tensor expanded(const Tensor& codes, const Tensor& scale);

// Rows starts[e] to starts[e + 1] of x with matrix e of `weight`; columns rounded up to 16, what is beyond is of no
// meaning.
Tensor launch_expert_product(const Tensor& x, const Tensor& starts, const Tensor& weight, const OptTensor& scale,
                             ScalarType out_dtype);

// fp8_linear and fp4_linear.
Tensor launch_quantised(const std::string& op, const Tensor& x, const OptTensor& x_scale, const Tensor& weight,
                        const Tensor& weight_scale, ScalarType out_dtype);

}  // namespace v4npu::ascend
