// hc_head on the CPU: few tokens share the rows of fn among threads, many tokens are shared themselves (products.h).
#include "v4npu/ops/hc_head.h"

#include "parallel.h"
#include "simd.h"
#include "simd/products.h"
#include "simd/streams.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <class T>
void launch(const HcHeadParams& p) {
  const int64_t m = p.hc_mult, d = p.hidden_size;
  const auto* streams = static_cast<const T*>(p.streams);
  products_then(streams, p.num_tokens, p.fn, m, m * d, p.mix, [&](int64_t t) {
    const T* x = streams + t * m * d;
    float* mix = p.mix + t * m;
    normalise_mix(mix, m, x, m * d, p.norm_eps);               // 1 mix
    weights(mix, mix, p.base, m, p.scale[0], 1.0f, p.hc_eps);  // 2 pre
    collapse(static_cast<T*>(p.y) + t * d, x, mix, m, d);      // 3 sum   4 one rounding
  });
}

}  // namespace

void hc_head(const HcHeadParams& p) { p.dtype == Dtype::kFloat32 ? launch<float>(p) : launch<bf16>(p); }

}  // namespace v4npu::cpu::V4NPU_ISA
