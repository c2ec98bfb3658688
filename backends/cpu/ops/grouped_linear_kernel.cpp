// grouped_linear on the CPU: gemm.h, one group after the other.
#include "v4npu/ops/grouped_linear.h"

#include "gemm.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <class E, class T, class W>
void run(const GroupedLinearParams& p, const W& w) {
  for (int64_t g = 0; g < p.num_groups; ++g) {
    const PlainRows<T> x{static_cast<const T*>(p.x) + g * p.k, p.num_groups * p.k, p.k};
    T* out = static_cast<T*>(p.out) + g * p.rows_per_group;
    product<E>(x, w, out, p.num_groups * p.rows_per_group, p.num_tokens, g * p.rows_per_group,
               (g + 1) * p.rows_per_group, p);
  }
}

}  // namespace

void grouped_linear(const GroupedLinearParams& p) {
  using Format = GroupedLinearParams::Format;
  const E4m3Rows fp8{static_cast<const uint8_t*>(p.weight), p.weight_scale, p.k, /*row_shift=*/7};
  const PlainRows<bf16> narrow_rows{static_cast<const bf16*>(p.weight), p.k, p.k};
  if (p.dtype == Dtype::kBfloat16) {
    with_element(true, [&](auto e) {
      p.format == Format::kFp8 ? run<decltype(e), bf16>(p, fp8) : run<decltype(e), bf16>(p, narrow_rows);
    });
  } else if (p.format == Format::kFp8) {
    run<float, float>(p, fp8);
  } else if (p.format == Format::kBfloat16) {
    run<float, float>(p, narrow_rows);
  } else {
    run<float, float>(p, PlainRows<float>{static_cast<const float*>(p.weight), p.k, p.k});
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
