// swiglu on the CPU: a thread takes whole rows; every element is computed by itself.
#include "v4npu/ops/swiglu.h"

#include "parallel.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <class T>
void rows(const SwigluParams& p, int64_t begin, int64_t end) {
  const int64_t n = p.intermediate_size;
  const f32x16 limit = set1(p.limit), lower = set1(-p.limit);
  for (int64_t t = begin; t < end; ++t) {
    const T* gate = static_cast<const T*>(p.gate) + t * n;
    const T* up = static_cast<const T*>(p.up) + t * n;
    T* out = static_cast<T*>(p.out) + t * n;
    for (int64_t i = 0; i < n; i += kLanes) {
      f32x16 a = load_upto(gate + i, n - i), u = load_upto(up + i, n - i);  // 1 widen
      if (p.limit > 0) {                                                    // 2 clamp
        a = min(limit, a);
        u = max(lower, min(limit, u));
      }
      f32x16 y = a / (set1(1.0f) + exp(zero() - a)) * u;     // 3 silu, times up
      if (p.weights != nullptr) y = y * set1(p.weights[t]);  // 4 times weights
      store_upto(out + i, y, n - i);                         // 5 one rounding
    }
  }
}

}  // namespace

void swiglu(const SwigluParams& p) {
  const auto body = p.dtype == Dtype::kFloat32 ? &rows<float> : &rows<bf16>;
  parallel_rows(p.num_tokens, 4 * p.intermediate_size,  // an exponential weighs about four loads
                [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
