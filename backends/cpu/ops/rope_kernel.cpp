// rope on the CPU: a thread takes whole tokens. Sines and cosines of a token are computed once for all its heads, 64
// pairs at a time, on the stack (1 KiB).
#include "v4npu/ops/rope.h"

#include "parallel.h"
#include "simd.h"
#include "simd/rope.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kPairs = 64;

template <class T>
void tokens(const RopeParams& p, int64_t begin, int64_t end) {
  const int64_t keep = p.head_dim - p.rope_dim;
  float cosines[2 * kPairs], sines[2 * kPairs];
  for (int64_t t = begin; t < end; ++t) {
    const T* x = static_cast<const T*>(p.x) + t * p.num_heads * p.head_dim;
    T* out = static_cast<T*>(p.out) + t * p.num_heads * p.head_dim;
    if (keep > 0 && out != x) {
      for (int64_t h = 0; h < p.num_heads; ++h)
        std::memcpy(out + h * p.head_dim, x + h * p.head_dim, static_cast<size_t>(keep) * sizeof(T));
    }
    for (int64_t first = 0; first < p.rope_dim; first += 2 * kPairs) {
      const int64_t count = p.rope_dim - first < 2 * kPairs ? p.rope_dim - first : 2 * kPairs;
      angles(p.positions[t], p.freqs + first / 2, count, p.inverse, cosines, sines);  // 1, 2
      for (int64_t h = 0; h < p.num_heads; ++h) {
        const int64_t at = h * p.head_dim + keep + first;
        turn(x + at, cosines, sines, count, out + at);  // 3, 4
      }
    }
  }
}

}  // namespace

void rope(const RopeParams& p) {
  const auto body = p.dtype == Dtype::kFloat32 ? &tokens<float> : &tokens<bf16>;
  // A sine and a cosine weigh about 64 elements.
  parallel_rows(p.num_tokens, p.num_heads * p.head_dim + 32 * p.rope_dim,
                [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
