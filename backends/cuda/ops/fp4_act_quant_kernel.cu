// fp4_act_quant on CUDA (sm_80 and later). A warp takes a block of a row; where blocks have an odd number of elements
// and share bytes, a warp takes a whole row, scales first. The values are read twice. No shared memory.
// Limits: 48 registers, 0 bytes of stack, 0 bytes of shared memory.
#include "v4npu/ops/fp4_act_quant.h"

#include "../device/quant.cuh"

namespace v4npu::cuda {

// Bytes [0, count) of codes; element e has scale scales[e / block].
template <class T>
V4NPU_INLINE void encode(const T* x, uint8_t* q, int64_t count, const uint8_t* scales, int64_t block) {
  for (int64_t i = lane_id(); i < count; i += kWarp) {
    const auto code = [&](int64_t e) { return e2m1_clamped(widen(x[e]) * e8m0_inverse(scales[e / block])); };
    q[i] = e2m1_pack(code(2 * i), code(2 * i + 1));  // 3 clamp   4 round   5 pack
  }
}

template <class T>
V4NPU_DEVICE void quantise(const Fp4ActQuantParams& p) {
  const int64_t blocks = (p.n + p.block_size - 1) / p.block_size;
  const int64_t at = static_cast<int64_t>(block_x()) * kRowWarps + warp_id();
  const auto scale_of = [&](int64_t r, int64_t b) {
    const int64_t first = b * p.block_size, n = p.n - first < p.block_size ? p.n - first : p.block_size;
    return e2m1_block_scale(warp_magnitude(static_cast<const T*>(p.x) + r * p.n + first, n));  // 1 amax   2 scale
  };
  if (p.block_size % 2 == 0) {
    if (at >= p.num_rows * blocks) return;
    const int64_t r = at / blocks, first = at % blocks * p.block_size;
    const int64_t n = p.n - first < p.block_size ? p.n - first : p.block_size;
    const uint8_t scale = scale_of(r, at % blocks);
    if (lane_id() == 0) p.scale[at] = scale;
    encode(static_cast<const T*>(p.x) + r * p.n + first, p.q + (r * p.n + first) / 2, n / 2, &scale, p.block_size);
    return;
  }
  if (at >= p.num_rows) return;
  uint8_t* scales = p.scale + at * blocks;
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t scale = scale_of(at, b);
    if (lane_id() == 0) scales[b] = scale;
  }
  sync_warp();
  encode(static_cast<const T*>(p.x) + at * p.n, p.q + at * p.n / 2, p.n / 2, scales, p.block_size);
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(fp4_act_quant_fp32, v4npu::cuda::kRowThreads, v4npu::Fp4ActQuantParams) {
  v4npu::cuda::quantise<float>(p);
}
V4NPU_KERNEL(fp4_act_quant_bf16, v4npu::cuda::kRowThreads, v4npu::Fp4ActQuantParams) {
  v4npu::cuda::quantise<v4npu::cuda::bf16>(p);
}
