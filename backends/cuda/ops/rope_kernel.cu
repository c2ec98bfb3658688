// rope on CUDA (sm_80 and later). A block of 256 threads takes a token; sines and cosines are computed once for all
// its heads, 512 pairs at a time. Shared memory: 4 KiB.
// Limits: 48 registers, 32 bytes of stack, 4096 bytes of shared memory.
#include "v4npu/ops/rope.h"

#include "../device/rotary.cuh"
#include "../device/rows.cuh"

namespace v4npu::cuda {

constexpr int64_t kPairs = 512;

template <class T>
V4NPU_DEVICE void token(const RopeParams& p) {
  auto& turns = shared<Turns<kPairs>>();
  const int64_t t = block_x(), keep = p.head_dim - p.rope_dim;
  const T* x = static_cast<const T*>(p.x) + t * p.num_heads * p.head_dim;
  T* out = static_cast<T*>(p.out) + t * p.num_heads * p.head_dim;
  if (out != x) {
    for (int64_t i = thread_id(); i < p.num_heads * keep; i += kRowThreads) {
      const int64_t at = i / keep * p.head_dim + i % keep;
      out[at] = x[at];
    }
  }
  for (int64_t first = 0; first < p.rope_dim / 2; first += kPairs) {
    const int64_t count = p.rope_dim / 2 - first < kPairs ? p.rope_dim / 2 - first : kPairs;
    if (first > 0) sync_block();  // the turns before are used
    turns.fill(p.positions[t], p.freqs + first, count, p.inverse);
    sync_block();
    for (int64_t i = thread_id(); i < p.num_heads * count; i += kRowThreads) {
      const int64_t at = i / count * p.head_dim + keep + 2 * (first + i % count);
      float a = widen(x[at]), b = widen(x[at + 1]);
      turn_pair(a, b, turns.of[i % count]);
      out[at] = narrow<T>(a);  // 4 one rounding
      out[at + 1] = narrow<T>(b);
    }
  }
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(rope_fp32, v4npu::cuda::kRowThreads, v4npu::RopeParams) { v4npu::cuda::token<float>(p); }
V4NPU_KERNEL(rope_bf16, v4npu::cuda::kRowThreads, v4npu::RopeParams) { v4npu::cuda::token<v4npu::cuda::bf16>(p); }
