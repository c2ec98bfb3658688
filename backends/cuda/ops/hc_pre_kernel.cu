// hc_pre on CUDA (sm_80 and later), two kernels: the mixes (products.cuh), then a block of 256 threads per token that
// makes the coefficients, its first warp the Sinkhorn matrix, and collapses the streams. Shared memory: 1120 bytes.
// Two, also for few tokens: their mixes are of 1.6 MB of fn (4 streams of 4,096), which 24 blocks read in two rounds of
// 32 KB each; the most that could hand them on without a kernel's end, the 8 of a cluster, would take six. Reckoned at
// 0.8 us a round, that loses 3 us to save less than 1. A count of blocks, so that the last goes on alone, would have to
// begin at zero: memory that nobody has, or a launch.
// Limits: 120 registers, 0 bytes of stack, 1152 bytes of shared memory.
#include "v4npu/ops/hc_pre.h"

#include "../device/streams.cuh"

namespace v4npu::cuda {

struct PreStorage {
  float parts[kRowWarps], pre[kMaxStreams], matrix[kMaxStreams * kMaxStreams];
};

// `count` values that lie `step` apart, divided by their sum plus eps.
V4NPU_INLINE void divide_by_sum(float* v, int64_t count, int64_t step, float eps) {
  float sum = 0.0f;
  for (int64_t i = 0; i < count; ++i) sum += v[i * step];
  for (int64_t i = 0; i < count; ++i) v[i * step] /= sum + eps;
}

// 5 Sinkhorn on the logits in c [m, m]: lane j of a warp has row j, then column j.
V4NPU_DEVICE void sinkhorn(float* c, int64_t m, float eps, int32_t iterations) {
  const int j = lane_id();
  if (j < m) {
    float* row = c + j * m;
    float largest = row[0];
    for (int64_t k = 1; k < m; ++k) largest = row[k] > largest ? row[k] : largest;  // a NaN spoils the row below
    for (int64_t k = 0; k < m; ++k) row[k] = expf(row[k] - largest);
    divide_by_sum(row, m, 1, 0.0f);
    for (int64_t k = 0; k < m; ++k) row[k] += eps;
  }
  sync_warp();
  if (j < m) divide_by_sum(c + j, m, m, eps);
  for (int32_t i = 1; i < iterations; ++i) {
    sync_warp();
    if (j < m) divide_by_sum(c + j * m, m, 1, eps);
    sync_warp();
    if (j < m) divide_by_sum(c + j, m, m, eps);
  }
}

template <class T>
V4NPU_DEVICE void apply(const HcPreParams& p) {
  auto& storage = shared<PreStorage>();
  const int64_t t = block_x(), m = p.hc_mult, d = p.hidden_size;
  const T* x = static_cast<const T*>(p.streams) + t * m * d;
  const float* mix = p.mix + t * (2 + m) * m;
  const float inverse = inverse_rms_of_streams(x, m * d, p.norm_eps, storage.parts);  // 1 mix
  if (thread_id() < m) {
    const int i = thread_id();
    storage.pre[i] = sigmoid(mix[i] * inverse * p.scale[0] + p.base[i]) + p.hc_eps;         // 2 pre
    p.post[t * m + i] = 2.0f * sigmoid(mix[m + i] * inverse * p.scale[1] + p.base[m + i]);  // 3 post
  }
  if (thread_id() < m * m) {  // 4 logits
    const int64_t i = thread_id(), at = 2 * m + i;
    storage.matrix[i] = mix[at] * inverse * p.scale[2] + p.base[at];
  }
  sync_block();
  if (warp_id() == 0) sinkhorn(storage.matrix, m, p.hc_eps, p.sinkhorn_iters);
  collapse(static_cast<T*>(p.y) + t * d, x, storage.pre, m, d);  // 6 sum, one rounding
  sync_block();
  if (thread_id() < m * m) p.comb[t * m * m + thread_id()] = storage.matrix[thread_id()];
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(hc_pre_products_fp32, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<float, float>(p);
}
V4NPU_KERNEL(hc_pre_products_bf16, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<v4npu::cuda::bf16, float>(p);
}
V4NPU_KERNEL(hc_pre_fp32, v4npu::cuda::kRowThreads, v4npu::HcPreParams) { v4npu::cuda::apply<float>(p); }
V4NPU_KERNEL(hc_pre_bf16, v4npu::cuda::kRowThreads, v4npu::HcPreParams) { v4npu::cuda::apply<v4npu::cuda::bf16>(p); }
