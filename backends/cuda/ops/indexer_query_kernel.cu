// indexer_query on CUDA (sm_80 and later). A block of 8 warps takes 8 heads of a token, a warp to a head, which stays
// in registers: RoPE, Hadamard and the rounding to e2m1 in one pass. Sines and cosines once per block. Shared memory:
// 1 KiB.
// Limits: 48 registers, 32 bytes of stack, 1024 bytes of shared memory.
#include "v4npu/ops/indexer_query.h"

#include "../device/hadamard.cuh"
#include "../device/quant.cuh"
#include "../device/rotary.cuh"

namespace v4npu::cuda {

constexpr int kFp4Block = 32;

// Lane l holds elements [l E, l E + E); lanes behind the head hold zeros.
template <int E, class T>
V4NPU_INLINE void head(const IndexerQueryParams& p, const T* q, T* out, const Turn* turns) {
  const int n = static_cast<int>(p.head_dim), keep = n - static_cast<int>(p.rope_dim), first = lane_id() * E;
  float v[E];
  V4NPU_UNROLL
  for (int i = 0; i < E; ++i) v[i] = first + i < n ? widen(q[first + i]) : 0.0f;
  if constexpr (E == 1) {  // 1 rope; a pair is two lanes
    const float other = bits_float(shuffle_xor(float_bits(v[0]), 1));
    const bool odd = ((first - keep) & 1) != 0;
    if (first >= keep && first < n) {
      float a = odd ? other : v[0], b = odd ? v[0] : other;
      turn_pair(a, b, turns[(first - keep) / 2]);
      v[0] = rounded<T>(odd ? b : a);
    }
  } else {
    V4NPU_UNROLL
    for (int i = 0; i < E; i += 2) {
      if (first + i < keep || first + i >= n) continue;
      turn_pair(v[i], v[i + 1], turns[(first + i - keep) / 2]);
      v[i] = rounded<T>(v[i]);
      v[i + 1] = rounded<T>(v[i + 1]);
    }
  }
  if (p.official) {
    warp_butterflies(v, n);  // 2 hadamard
    const float factor = hadamard_factor(n);
    float largest = 0.0f;
    V4NPU_UNROLL
    for (int i = 0; i < E; ++i) {
      v[i] = rounded<T>(v[i] * factor);
      largest = larger_or_nan(largest, magnitude(v[i]));
    }
    V4NPU_UNROLL
    for (int mask = 1; mask * E < kFp4Block; mask *= 2)  // lanes of the same block of 32
      largest = larger_or_nan(largest, bits_float(shuffle_xor(float_bits(largest), mask)));
    const uint8_t scale = e2m1_block_scale(largest);  // 3 round to e2m1
    V4NPU_UNROLL
    for (int i = 0; i < E; ++i) v[i] = round_e2m1(v[i], scale);
  }
  V4NPU_UNROLL
  for (int i = 0; i < E; ++i) {
    if (first + i < n) out[first + i] = narrow<T>(v[i]);
  }
}

template <class T>
V4NPU_DEVICE void heads(const IndexerQueryParams& p) {
  auto& turns = shared<Turns<kMaxIndexHead / 2>>();
  const int64_t t = block_x(), h = static_cast<int64_t>(block_y()) * kRowWarps + warp_id();
  turns.fill(p.positions[t], p.freqs, p.rope_dim / 2, false);
  sync_block();
  if (h >= p.num_heads) return;
  const T* q = static_cast<const T*>(p.q) + (t * p.num_heads + h) * p.head_dim;
  T* out = static_cast<T*>(p.out) + (t * p.num_heads + h) * p.head_dim;
  if (p.head_dim <= 32) return head<1, T>(p, q, out, turns.of);
  if (p.head_dim <= 64) return head<2, T>(p, q, out, turns.of);
  if (p.head_dim <= 128) return head<4, T>(p, q, out, turns.of);
  head<8, T>(p, q, out, turns.of);
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(indexer_query_fp32, v4npu::cuda::kRowThreads, v4npu::IndexerQueryParams) { v4npu::cuda::heads<float>(p); }
V4NPU_KERNEL(indexer_query_bf16, v4npu::cuda::kRowThreads, v4npu::IndexerQueryParams) {
  v4npu::cuda::heads<v4npu::cuda::bf16>(p);
}
