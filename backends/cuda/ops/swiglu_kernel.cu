// swiglu on CUDA (sm_80 and later). A block of 256 threads takes a row; every element is computed by itself. No shared
// memory.
// Limits: 48 registers, 0 bytes of stack, 0 bytes of shared memory.
#include "v4npu/ops/swiglu.h"

#include "../device/rows.cuh"
#include "../device/swiglu.cuh"

namespace v4npu::cuda {

template <class T>
V4NPU_DEVICE void row(const SwigluParams& p) {
  const int64_t t = block_x(), n = p.intermediate_size;
  const T *gate = static_cast<const T*>(p.gate) + t * n, *up = static_cast<const T*>(p.up) + t * n;
  T* out = static_cast<T*>(p.out) + t * n;
  const bool pieces = in_pieces(gate, n) && in_pieces(up, n) && in_pieces(out, n);
  const float weight = p.weights != nullptr ? p.weights[t] : 1.0f;
  for (int64_t i = thread_id() * kChunk; i < n; i += kRowThreads * kChunk) {
    float a[kChunk], u[kChunk];
    load_chunk(gate, i, n, pieces, a);  // 1 widen
    load_chunk(up, i, n, pieces, u);
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) a[j] = gated(a[j], u[j], p.limit) * weight;  // 2 to 4
    store_chunk(out, i, n, pieces, a);                                            // 5 one rounding
  }
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(swiglu_fp32, v4npu::cuda::kRowThreads, v4npu::SwigluParams) { v4npu::cuda::row<float>(p); }
V4NPU_KERNEL(swiglu_bf16, v4npu::cuda::kRowThreads, v4npu::SwigluParams) { v4npu::cuda::row<v4npu::cuda::bf16>(p); }
