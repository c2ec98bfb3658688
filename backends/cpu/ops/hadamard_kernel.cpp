// hadamard on the CPU: a thread takes whole rows, each widened into a buffer on the stack (32 KiB at most).
#include "v4npu/ops/hadamard.h"

#include "parallel.h"
#include "simd.h"
#include "simd/hadamard.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kMaxRow = 8192;  // the launcher hands longer rows to the reference

template <class T>
void rows(const HadamardParams& p, int64_t begin, int64_t end) {
  float row[kMaxRow];
  const float norm = hadamard_norm(p.n);
  for (int64_t r = begin; r < end; ++r)
    hadamard_row(static_cast<const T*>(p.x) + r * p.n, p.n, norm, row, static_cast<T*>(p.out) + r * p.n);
}

}  // namespace

void hadamard(const HadamardParams& p) {
  const auto body = p.dtype == Dtype::kFloat32 ? &rows<float> : &rows<bf16>;
  parallel_rows(p.num_rows, 4 * p.n, [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
