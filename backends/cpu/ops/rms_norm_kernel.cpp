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
    norm_row(static_cast<const T*>(p.x) + r * p.n, weight, p.eps, static_cast<T*>(p.out) + r * p.n, p.n);
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
