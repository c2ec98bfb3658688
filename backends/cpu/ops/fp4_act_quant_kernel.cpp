// fp4_act_quant on the CPU: a thread takes whole rows. A block is read twice, the second time out of the first cache.
#include "v4npu/ops/fp4_act_quant.h"

#include "parallel.h"
#include "simd.h"
#include "simd/block.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

// Blocks of an odd number of elements share bytes, so their codes are written one by one.
template <class T>
V4NPU_INLINE void encode_singly(const T* x, uint8_t* row, int64_t first, int64_t n, float inverse) {
  for (int64_t i = first; i < first + n; ++i) {
    const float y = widen(x[i]) * inverse, magnitude = bits_float(float_bits(y) & 0x7fffffff);
    const uint8_t code = e2m1_encode(magnitude > kE2m1Max ? (y > 0 ? kE2m1Max : -kE2m1Max) : y);
    row[i / 2] = i % 2 == 0 ? code : e2m1_pack(row[i / 2], code);
  }
}

template <class T>
void rows(const Fp4ActQuantParams& p, int64_t begin, int64_t end) {
  const int64_t blocks = (p.n + p.block_size - 1) / p.block_size;
  for (int64_t r = begin; r < end; ++r) {
    const T* x = static_cast<const T*>(p.x) + r * p.n;
    uint8_t* q = p.q + r * (p.n / 2);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * p.block_size, n = p.n - first < p.block_size ? p.n - first : p.block_size;
      const uint8_t scale = e2m1_block_scale(largest_magnitude(x + first, n));  // 1 amax   2 scale
      p.scale[r * blocks + b] = scale;
      if (p.block_size % 2 == 0) {
        encode_e2m1(x + first, n, e8m0_inverse(scale), q + first / 2);  // 3 clamp   4 round   5 pack
      } else {
        encode_singly(x, q, first, n, e8m0_inverse(scale));
      }
    }
  }
}

}  // namespace

void fp4_act_quant(const Fp4ActQuantParams& p) {
  const auto body = p.dtype == Dtype::kFloat32 ? &rows<float> : &rows<bf16>;
  parallel_rows(p.num_rows, p.n, [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
