// act_quant on CUDA (sm_80 and later). A warp takes a block of a row; 8 warps to a block of threads. The values are
// read twice, the second time out of the first cache. No shared memory.
// Limits: 40 registers, 0 bytes of stack, 0 bytes of shared memory.
#include "v4npu/ops/act_quant.h"

#include "../device/quant.cuh"

namespace v4npu::cuda {

template <class T>
V4NPU_DEVICE void quantise(const ActQuantParams& p) {
  const int64_t blocks = (p.n + p.block_size - 1) / p.block_size;
  const int64_t at = static_cast<int64_t>(block_x()) * kRowWarps + warp_id();
  if (at >= p.num_rows * blocks) return;
  const int64_t r = at / blocks, first = at % blocks * p.block_size;
  const int64_t n = p.n - first < p.block_size ? p.n - first : p.block_size;
  const T* x = static_cast<const T*>(p.x) + r * p.n + first;
  uint8_t* q = p.q + r * p.n + first;
  const uint8_t scale = e4m3_block_scale(warp_magnitude(x, n));  // 1 amax   2 scale
  const float inverse = e8m0_inverse(scale);
  if (lane_id() == 0) p.scale[at] = scale;
  const auto code = [&](int64_t i) { return uint32_t{e4m3_encode(widen(x[i]) * inverse)}; };  // 3 clamp   4 round
  const bool words = n % 4 == 0 && reinterpret_cast<uintptr_t>(q) % 4 == 0;
  for (int64_t i = 4 * lane_id(); i < n; i += 4 * kWarp) {
    if (words) {
      store_as(q + i, code(i) | code(i + 1) << 8 | code(i + 2) << 16 | code(i + 3) << 24);
      continue;
    }
    for (int64_t j = i; j < n && j < i + 4; ++j) q[j] = static_cast<uint8_t>(code(j));
  }
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(act_quant_fp32, v4npu::cuda::kRowThreads, v4npu::ActQuantParams) { v4npu::cuda::quantise<float>(p); }
V4NPU_KERNEL(act_quant_bf16, v4npu::cuda::kRowThreads, v4npu::ActQuantParams) {
  v4npu::cuda::quantise<v4npu::cuda::bf16>(p);
}
