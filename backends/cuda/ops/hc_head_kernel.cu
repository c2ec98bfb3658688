// hc_head on CUDA (sm_80 and later), two kernels: the mixes (products.cuh), then a block of 256 threads per token that
// normalises them and collapses the streams. Shared memory: 96 bytes.
// Limits: 120 registers, 0 bytes of stack, 128 bytes of shared memory.
#include "v4npu/ops/hc_head.h"

#include "../device/streams.cuh"

namespace v4npu::cuda {

struct HeadStorage {
  float parts[kRowWarps], pre[kMaxStreams];
};

template <class T>
V4NPU_DEVICE void apply(const HcHeadParams& p) {
  auto& storage = shared<HeadStorage>();
  const int64_t t = block_x(), m = p.hc_mult, d = p.hidden_size;
  const T* x = static_cast<const T*>(p.streams) + t * m * d;
  const float inverse = inverse_rms_of_streams(x, m * d, p.norm_eps, storage.parts);  // 1 mix
  if (thread_id() < m) {                                                              // 2 pre
    const int i = thread_id();
    storage.pre[i] = sigmoid(p.mix[t * m + i] * inverse * p.scale[0] + p.base[i]) + p.hc_eps;
  }
  sync_block();
  collapse(static_cast<T*>(p.y) + t * d, x, storage.pre, m, d);  // 3 sum   4 one rounding
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(hc_head_products_fp32, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<float, float>(p);
}
V4NPU_KERNEL(hc_head_products_bf16, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<v4npu::cuda::bf16, float>(p);
}
V4NPU_KERNEL(hc_head_fp32, v4npu::cuda::kRowThreads, v4npu::HcHeadParams) { v4npu::cuda::apply<float>(p); }
V4NPU_KERNEL(hc_head_bf16, v4npu::cuda::kRowThreads, v4npu::HcHeadParams) { v4npu::cuda::apply<v4npu::cuda::bf16>(p); }
