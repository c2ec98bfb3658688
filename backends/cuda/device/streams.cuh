// What hc_pre and hc_head share: coefficients of a token from its mixes, and the weighted sum of its streams.
#pragma once

#include "products.cuh"

namespace v4npu::cuda {

// mix[i] times the inverse RMS of the token's streams x [n].  `parts` as in block_sum.
template <class T>
V4NPU_INLINE float inverse_rms_of_streams(const T* x, int64_t n, float eps, float* parts) {
  return inverse_rms(block_sum(squares(x, n, thread_id(), kRowThreads), parts), n, eps);
}

// y = sum_i pre[i] x_i over m streams of d values, one rounding.
template <class T>
V4NPU_DEVICE void collapse(T* y, const T* x, const float* pre, int64_t m, int64_t d) {
  const bool pieces = in_pieces(x, d) && in_pieces(y, d);
  for (int64_t i = thread_id() * kChunk; i < d; i += kRowThreads * kChunk) {
    float sum[kChunk] = {};
    for (int64_t j = 0; j < m; ++j) {
      float v[kChunk];
      load_chunk(x + j * d, i, d, pieces, v);
      V4NPU_UNROLL
      for (int c = 0; c < kChunk; ++c) sum[c] = fmaf(pre[j], v[c], sum[c]);
    }
    store_chunk(y, i, d, pieces, sum);
  }
}

}  // namespace v4npu::cuda
