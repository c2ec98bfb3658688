#include "v4npu/ops/fp4_act_quant.h"

#include "../launch.h"
#include "ops/calls.h"

namespace v4npu::cuda {

std::tuple<Tensor, Tensor> launch_fp4_act_quant(const Tensor& x, int64_t block_size) {
  check_fp4_act_quant(x, block_size);
  if (!runs(x)) return call_reference<Tensor, Tensor>("fp4_act_quant", x, block_size);

  const Fp4ActQuantCall call(x, block_size);
  const Fp4ActQuantParams& p = call.p;
  const int64_t warps = block_size % 2 == 0 ? p.num_rows * ceil_div(p.n, block_size) : p.num_rows;
  run("fp4_act_quant", kernel_name("fp4_act_quant", p.dtype), p, {ceil_div(warps, kRowWarps)}, kRowThreads, x);
  return {call.q, call.scale};
}

}  // namespace v4npu::cuda

STABLE_TORCH_LIBRARY_IMPL(v4npu, CUDA, m) { m.impl("fp4_act_quant", TORCH_BOX(&v4npu::cuda::launch_fp4_act_quant)); }
