// rms_norm on the CPU: a thread takes whole rows. A row is read twice, the second time out of cache.
#include "v4npu/ops/rms_norm.h"

#include "parallel.h"
#include "simd.h"
#include "simd/squares.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <class T, class W>
void rows(const RmsNormParams& p, int64_t begin, int64_t end) {
  const auto* weight = static_cast<const W*>(p.weight);
  for (int64_t r = begin; r < end; ++r) {
    const T* x = static_cast<const T*>(p.x) + r * p.n;
    T* out = static_cast<T*>(p.out) + r * p.n;
    // 1 widen x   2 mean of squares
    const float mean = sum_of_squares<float>(x, p.n) / static_cast<float>(p.n);
    const f32x16 scale = set1(1.0f / __builtin_sqrtf(mean + p.eps));
    for (int64_t i = 0; i < p.n; i += kLanes) {
      f32x16 y = load_upto(x + i, p.n - i) * scale;                   // 3 times rsqrt
      if (weight != nullptr) y = y * load_upto(weight + i, p.n - i);  // 4 times weight
      store_upto(out + i, y, p.n - i);                                // 5 one rounding
    }
  }
}

template <class T>
void launch(const RmsNormParams& p) {
  const auto body = p.weight_dtype == Dtype::kFloat32 ? &rows<T, float> : &rows<T, bf16>;
  parallel_rows(p.num_rows, p.n, [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace

void rms_norm(const RmsNormParams& p) { p.dtype == Dtype::kFloat32 ? launch<float>(p) : launch<bf16>(p); }

}  // namespace v4npu::cpu::V4NPU_ISA
