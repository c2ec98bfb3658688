// hc_post on CUDA (sm_80 and later). A thread takes 8 columns of all streams of a token; a block 2048 columns. Every
// column is computed by itself. No shared memory.
// Limits: 88 registers, 0 bytes of stack, 0 bytes of shared memory.
#include "v4npu/ops/hc_post.h"

#include "../device/rows.cuh"

namespace v4npu::cuda {

template <class T>
V4NPU_DEVICE void columns(const HcPostParams& p) {
  const int64_t t = block_x(), m = p.hc_mult, d = p.hidden_size;
  const int64_t i = (static_cast<int64_t>(block_y()) * kRowThreads + thread_id()) * kChunk;
  if (i >= d) return;
  const T *x = static_cast<const T*>(p.x) + t * d, *streams = static_cast<const T*>(p.streams) + t * m * d;
  T* out = static_cast<T*>(p.out) + t * m * d;
  const float *post = p.post + t * m, *comb = p.comb + t * m * m;
  const bool pieces = in_pieces(x, d) && in_pieces(streams, d) && in_pieces(out, d);
  float f[kChunk];
  load_chunk(x, i, d, pieces, f);  // 1 widen
  for (int64_t k = 0; k < m; ++k) {
    float sum[kChunk];
    for (int64_t j = 0; j < m; ++j) {  // 2 mix; after the first k the streams come out of the first cache
      float h[kChunk];
      load_chunk(streams + j * d, i, d, pieces, h);
      V4NPU_UNROLL
      for (int c = 0; c < kChunk; ++c) sum[c] = j == 0 ? comb[k] * h[c] : fmaf(comb[j * m + k], h[c], sum[c]);
    }
    V4NPU_UNROLL
    for (int c = 0; c < kChunk; ++c) sum[c] = fmaf(post[k], f[c], sum[c]);  // 3 add
    store_chunk(out + k * d, i, d, pieces, sum);                            // 4 one rounding
  }
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(hc_post_fp32, v4npu::cuda::kRowThreads, v4npu::HcPostParams) { v4npu::cuda::columns<float>(p); }
V4NPU_KERNEL(hc_post_bf16, v4npu::cuda::kRowThreads, v4npu::HcPostParams) {
  v4npu::cuda::columns<v4npu::cuda::bf16>(p);
}
