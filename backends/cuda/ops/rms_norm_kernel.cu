// rms_norm on CUDA (sm_80 and later). Rows of up to 1024 elements are a warp's, eight to a block; longer ones a
// block's of 256 threads. A row is read twice, the second time out of a cache. Shared memory: 32 bytes.
// Limits: 40 registers, 0 bytes of stack, 32 bytes of shared memory.
#include "v4npu/ops/rms_norm.h"

#include "../device/rows.cuh"

namespace v4npu::cuda {

template <class T, class W>
V4NPU_DEVICE void scale_row(const RmsNormParams& p, int64_t r, float sum, int64_t first, int64_t step) {
  const T* x = static_cast<const T*>(p.x) + r * p.n;
  T* out = static_cast<T*>(p.out) + r * p.n;
  const W* weight = static_cast<const W*>(p.weight);
  const bool pieces = in_pieces(x, p.n) && in_pieces(out, p.n), weight_pieces = in_pieces(weight, p.n);
  const float scale = inverse_rms(sum, p.n, p.eps);
  for (int64_t i = first * kChunk; i < p.n; i += step * kChunk) {
    float v[kChunk], w[kChunk];
    load_chunk(x, i, p.n, pieces, v);
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) v[j] *= scale;  // 3 times rsqrt
    if (weight != nullptr) {
      load_chunk(weight, i, p.n, weight_pieces, w);
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j) v[j] *= w[j];  // 4 times weight
    }
    store_chunk(out, i, p.n, pieces, v);  // 5 one rounding
  }
}

template <class T, class W>
V4NPU_DEVICE void rows(const RmsNormParams& p) {
  if (p.n <= kWarpRow) {
    const int64_t r = static_cast<int64_t>(block_x()) * kRowWarps + warp_id();
    if (r >= p.num_rows) return;
    // 1 widen x   2 mean of squares
    const float sum = warp_sum(squares(static_cast<const T*>(p.x) + r * p.n, p.n, lane_id(), kWarp));
    scale_row<T, W>(p, r, sum, lane_id(), kWarp);
    return;
  }
  struct Parts {
    float sums[kRowWarps];
  };
  const int64_t r = block_x();
  const float sum =
      block_sum(squares(static_cast<const T*>(p.x) + r * p.n, p.n, thread_id(), kRowThreads), shared<Parts>().sums);
  scale_row<T, W>(p, r, sum, thread_id(), kRowThreads);
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(rms_norm_fp32_fp32, v4npu::cuda::kRowThreads, v4npu::RmsNormParams) { v4npu::cuda::rows<float, float>(p); }
V4NPU_KERNEL(rms_norm_fp32_bf16, v4npu::cuda::kRowThreads, v4npu::RmsNormParams) {
  v4npu::cuda::rows<float, v4npu::cuda::bf16>(p);
}
V4NPU_KERNEL(rms_norm_bf16_fp32, v4npu::cuda::kRowThreads, v4npu::RmsNormParams) {
  v4npu::cuda::rows<v4npu::cuda::bf16, float>(p);
}
V4NPU_KERNEL(rms_norm_bf16_bf16, v4npu::cuda::kRowThreads, v4npu::RmsNormParams) {
  v4npu::cuda::rows<v4npu::cuda::bf16, v4npu::cuda::bf16>(p);
}
