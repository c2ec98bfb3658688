// grouped_linear on the CPU: gemm.h, all groups at once or one after the other.
#include "v4npu/ops/grouped_linear.h"

#include "gemm.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <class E, class T, class W>
void run(const GroupedLinearParams& p, const W& w) {
  const int64_t together = groups_together(p.num_tokens, p.num_groups);
  const auto x_of = [&](int64_t group) {
    return PlainRows<T>{static_cast<const T*>(p.x) + group * p.k, p.num_groups * p.k, p.k};
  };
  for (int64_t g = 0; g < p.num_groups; g += together)
    product<E>(x_of, g, g + together, w, p.rows_per_group, static_cast<T*>(p.out), p.num_groups * p.rows_per_group, p);
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
