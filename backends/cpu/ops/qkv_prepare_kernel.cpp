// qkv_prepare on the CPU: a thread takes whole tokens. Sines and cosines of a token are computed once for all its heads
// (scratch: 8 * rope_dim bytes). Every row is worked on where it will stand.
#include "v4npu/ops/qkv_prepare.h"

#include "paged/row_ops.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"
#include "v4npu/dtype.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <class T>
V4NPU_INLINE void norm_head(const QkvPrepareParams& p, const T* q, T* out) {
  if (!p.official) return norm_row<T, float>(q, nullptr, p.eps, out, p.head_dim);
  const float mean = rounded<T>(sum_of_squares<T>(q, p.head_dim) / static_cast<float>(p.head_dim));
  const f32x16 scale = set1(rounded<T>(1.0f / __builtin_sqrtf(rounded<T>(mean + p.eps))));
  for (int64_t i = 0; i < p.head_dim; i += kLanes) {
    store_upto(out + i, load_upto(q + i, p.head_dim - i) * scale, p.head_dim - i);
  }
}

template <class T>
V4NPU_INLINE void store_row(const QkvPrepareParams& p, const T* kv, int64_t slot) {
  const RowFormat format = p.packed ? fp8_kv_row(p.head_dim, p.rope_dim) : plain_row(p.head_dim, sizeof(T));
  const Slot to = find_slot(p.window_cache, slot, p.block_size, p.block_stride, format);
  if constexpr (sizeof(T) == sizeof(bf16)) {
    if (p.packed) return pack_fp8(kv, p.head_dim - p.rope_dim, p.rope_dim, to);
  }
  std::memcpy(to.payload, kv, static_cast<size_t>(format.payload));
}

template <class T, class W>
void tokens(const QkvPrepareParams& p, int64_t begin, int64_t end) {
  const int64_t keep = p.head_dim - p.rope_dim;
  auto* cosines = static_cast<float*>(scratch(Scratch::kBody, 2 * p.rope_dim * static_cast<int64_t>(sizeof(float))));
  float* sines = cosines + p.rope_dim;
  for (int64_t t = begin; t < end; ++t) {
    angles(p.positions[t], p.freqs, p.rope_dim, false, cosines, sines);
    for (int64_t h = 0; h < p.num_heads; ++h) {
      const int64_t at = (t * p.num_heads + h) * p.head_dim;
      T* out = static_cast<T*>(p.q_out) + at;
      norm_head(p, static_cast<const T*>(p.q) + at, out);        // 1 norm per head
      turn(out + keep, cosines, sines, p.rope_dim, out + keep);  // 2 rope
    }
    T* kv = static_cast<T*>(p.kv_out) + t * p.head_dim;
    const T* from = static_cast<const T*>(p.kv) + t * p.head_dim;
    norm_row(from, static_cast<const W*>(p.kv_norm_weight), p.eps, kv, p.head_dim);                // 3 norm
    turn(kv + keep, cosines, sines, p.rope_dim, kv + keep);                                        // 4 rope
    if (p.official) round_fp8(kv, keep);                                                           // 5 FP8
    if (p.window_cache != nullptr && p.slot_mapping[t] >= 0) store_row(p, kv, p.slot_mapping[t]);  // 6 store
  }
}

template <class T>
void launch(const QkvPrepareParams& p) {
  const auto body = p.weight_dtype == Dtype::kFloat32 ? &tokens<T, float> : &tokens<T, bf16>;
  // A sine and a cosine weigh about 64 elements.
  parallel_rows(p.num_tokens, (p.num_heads + 2) * p.head_dim + 32 * p.rope_dim,
                [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace

void qkv_prepare(const QkvPrepareParams& p) { p.dtype == Dtype::kFloat32 ? launch<float>(p) : launch<bf16>(p); }

}  // namespace v4npu::cpu::V4NPU_ISA
