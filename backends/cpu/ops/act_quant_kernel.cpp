// act_quant on the CPU: a thread takes whole rows. A block is read twice, the second time out of the first cache.
#include "v4npu/ops/act_quant.h"

#include "parallel.h"
#include "simd.h"
#include "simd/block.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <class T>
void rows(const ActQuantParams& p, int64_t begin, int64_t end) {
  const int64_t blocks = (p.n + p.block_size - 1) / p.block_size;
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * p.block_size, n = p.n - first < p.block_size ? p.n - first : p.block_size;
      const T* x = static_cast<const T*>(p.x) + r * p.n + first;
      const uint8_t scale = e4m3_block_scale(largest_magnitude(x, n));  // 1 amax   2 scale
      p.scale[r * blocks + b] = scale;
      encode_e4m3(x, n, e8m0_inverse(scale), p.q + r * p.n + first);  // 3 clamp   4 round
    }
  }
}

}  // namespace

void act_quant(const ActQuantParams& p) {
  const auto body = p.dtype == Dtype::kFloat32 ? &rows<float> : &rows<bf16>;
  parallel_rows(p.num_rows, p.n, [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
