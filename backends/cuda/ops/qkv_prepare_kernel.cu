// qkv_prepare on CUDA (sm_80 and later). A warp takes a head of a token, or its KV row, in registers: norm, RoPE,
// rounding and store in one pass (device/kv_row.cuh). 8 warps to a block share the token's sines and cosines: shared
// memory of 4 KiB.
// Limits: 96 registers, 32 bytes of stack, 4096 bytes of shared memory.
#include "v4npu/ops/qkv_prepare.h"

#include "../device/kv_row.cuh"

namespace v4npu::cuda {

template <class T>
V4NPU_INLINE void head(const QkvPrepareParams& p, int64_t at, const Turn* turns) {
  WarpRow row{{}, p.head_dim};
  row.load(static_cast<const T*>(p.q) + at);
  if (p.official) {  // 1 norm; square, mean, root and product round
    const float mean = rounded<T>(row.squares<T>() / static_cast<float>(p.head_dim));
    const float scale = rounded<T>(1.0f / sqrtf(rounded<T>(mean + p.eps)));
    row.map([&](float x, int64_t) { return rounded<T>(x * scale); });
  } else {
    row.norm<T, float>(nullptr, p.eps);
  }
  row.rope<T>(turns, p.head_dim - p.rope_dim);  // 2 rope
  row.store(static_cast<T*>(p.q_out) + at);
}

template <class T, class W>
V4NPU_INLINE void kv_row(const QkvPrepareParams& p, int64_t t, const Turn* turns) {
  const int64_t keep = p.head_dim - p.rope_dim;
  WarpRow row{{}, p.head_dim};
  row.load(static_cast<const T*>(p.kv) + t * p.head_dim);
  row.norm<T>(static_cast<const W*>(p.kv_norm_weight), p.eps);  // 3 norm
  row.rope<T>(turns, keep);                                     // 4 rope
  if (p.official) row.round_fp8<T>(keep);                       // 5 FP8
  row.store(static_cast<T*>(p.kv_out) + t * p.head_dim);
  if (p.window_cache == nullptr || p.slot_mapping[t] < 0) return;
  const RowFormat format = p.packed ? fp8_kv_row(p.head_dim, p.rope_dim) : plain_row(p.head_dim, sizeof(T));
  const SlotRow to = slot_row(p.window_cache, p.slot_mapping[t], p.block_size, p.block_stride, format);  // 6 store
  if (p.packed) {
    row.pack_fp8(to, keep);
  } else {
    row.store(reinterpret_cast<T*>(to.payload));
  }
}

template <class T, class W>
V4NPU_DEVICE void rows(const QkvPrepareParams& p) {
  auto& turns = shared<Turns<kWarpRow / 2>>();
  const int64_t t = block_x(), h = static_cast<int64_t>(block_y()) * kRowWarps + warp_id();
  turns.fill(p.positions[t], p.freqs, p.rope_dim / 2, false);
  sync_block();
  if (h < p.num_heads) return head<T>(p, (t * p.num_heads + h) * p.head_dim, turns.of);
  if (h == p.num_heads) kv_row<T, W>(p, t, turns.of);
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(qkv_prepare_fp32_fp32, v4npu::cuda::kRowThreads, v4npu::QkvPrepareParams) {
  v4npu::cuda::rows<float, float>(p);
}
V4NPU_KERNEL(qkv_prepare_fp32_bf16, v4npu::cuda::kRowThreads, v4npu::QkvPrepareParams) {
  v4npu::cuda::rows<float, v4npu::cuda::bf16>(p);
}
V4NPU_KERNEL(qkv_prepare_bf16_fp32, v4npu::cuda::kRowThreads, v4npu::QkvPrepareParams) {
  v4npu::cuda::rows<v4npu::cuda::bf16, float>(p);
}
V4NPU_KERNEL(qkv_prepare_bf16_bf16, v4npu::cuda::kRowThreads, v4npu::QkvPrepareParams) {
  v4npu::cuda::rows<v4npu::cuda::bf16, v4npu::cuda::bf16>(p);
}
