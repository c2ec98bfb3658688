// hadamard on CUDA (sm_80 and later). A warp takes a row of up to 1024 elements, in registers; longer rows are the
// reference's. 8 warps to a block. No shared memory.
// Limits: 104 registers, 0 bytes of stack, 0 bytes of shared memory.
#include "v4npu/ops/hadamard.h"

#include "../device/hadamard.cuh"
#include "../device/rows.cuh"

namespace v4npu::cuda {

template <int E, class T>
V4NPU_DEVICE void transform_row(const HadamardParams& p, int64_t r) {
  const int n = static_cast<int>(p.n);
  const T* x = static_cast<const T*>(p.x) + r * p.n;
  T* out = static_cast<T*>(p.out) + r * p.n;
  float v[E];
  V4NPU_UNROLL
  for (int i = 0; i < E; ++i) v[i] = lane_id() * E + i < n ? widen(x[lane_id() * E + i]) : 0.0f;  // 1 widen
  warp_butterflies(v, n);                                                                         // 2 butterflies
  const float factor = hadamard_factor(n);
  V4NPU_UNROLL
  for (int i = 0; i < E; ++i) {
    if (lane_id() * E + i < n) out[lane_id() * E + i] = narrow<T>(v[i] * factor);  // 3, 4 one rounding
  }
}

template <class T>
V4NPU_DEVICE void rows(const HadamardParams& p) {
  const int64_t r = static_cast<int64_t>(block_x()) * kRowWarps + warp_id();
  if (r >= p.num_rows) return;
  switch (p.n) {
    case 64: return transform_row<2, T>(p, r);
    case 128: return transform_row<4, T>(p, r);
    case 256: return transform_row<8, T>(p, r);
    case 512: return transform_row<16, T>(p, r);
    case 1024: return transform_row<32, T>(p, r);
    default: return transform_row<1, T>(p, r);
  }
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(hadamard_fp32, v4npu::cuda::kRowThreads, v4npu::HadamardParams) { v4npu::cuda::rows<float>(p); }
V4NPU_KERNEL(hadamard_bf16, v4npu::cuda::kRowThreads, v4npu::HadamardParams) {
  v4npu::cuda::rows<v4npu::cuda::bf16>(p);
}
