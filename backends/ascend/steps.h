// Launchers of ops/ that others call for a step of theirs.
#pragma once

#include <tuple>

#include "launch.h"

namespace v4npu::ascend {

Tensor launch_rms_norm(const Tensor& x, const OptTensor& weight, double eps);
Tensor launch_rope(const Tensor& x, const Tensor& positions, const Tensor& freqs, bool inverse);
std::tuple<Tensor, Tensor> launch_act_quant(const Tensor& x, int64_t block_size);
std::tuple<Tensor, Tensor> launch_fp4_act_quant(const Tensor& x, int64_t block_size);
Tensor launch_hadamard(const Tensor& x);
Tensor launch_swiglu(const Tensor& gate, const Tensor& up, const OptTensor& weights, double limit);

}  // namespace v4npu::ascend
