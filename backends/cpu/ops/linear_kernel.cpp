// linear on the CPU: gemm.h over plain rows, in bfloat16 when both operands are.
#include "v4npu/ops/linear.h"

#include "gemm.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <class E, class X, class W>
void run(const LinearParams& p) {
  const PlainRows<X> x{static_cast<const X*>(p.x), p.k, p.k};
  const PlainRows<W> w{static_cast<const W*>(p.weight), p.k, p.k};
  const auto into = [&](auto* out) { product<E>(x, w, out, p); };
  p.out_dtype == Dtype::kFloat32 ? into(static_cast<float*>(p.out)) : into(static_cast<bf16*>(p.out));
}

}  // namespace

void linear(const LinearParams& p) {
  const bool wide_x = p.x_dtype == Dtype::kFloat32, wide_weight = p.weight_dtype == Dtype::kFloat32;
  if (wide_x) return wide_weight ? run<float, float, float>(p) : run<float, float, bf16>(p);
  if (wide_weight) return run<float, bf16, float>(p);
  with_element(true, [&](auto e) { run<decltype(e), bf16, bf16>(p); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
