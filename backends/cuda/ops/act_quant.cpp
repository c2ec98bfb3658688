#include "v4npu/ops/act_quant.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor> launch_act_quant(const Tensor& x, int64_t block_size) {
  check_act_quant(x, block_size);
  if (!runs(x)) return call_reference<Tensor, Tensor>("act_quant", x, block_size);

  const ActQuantCall call(x, block_size);
  const ActQuantParams& p = call.p;
  const int64_t blocks = ceil_div(p.num_rows * ceil_div(p.n, block_size), kRowWarps);
  run("act_quant", kernel_name("act_quant", p.dtype), p, {blocks}, kRowThreads, x);
  return {call.q, call.scale};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("act_quant", TORCH_BOX(&v4npu::cuda::launch_act_quant)); }
