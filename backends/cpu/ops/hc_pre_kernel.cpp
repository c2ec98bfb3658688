// hc_pre on the CPU: few tokens share the rows of fn among threads, many tokens are shared themselves (products.h).
// With four streams the matrix of a token is one vector, lane 4j+k, and its sums are swaps of lanes.
#include "v4npu/ops/hc_pre.h"

#include "parallel.h"
#include "simd.h"
#include "simd/products.h"
#include "simd/streams.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

template <int A, int B>
V4NPU_INLINE f32x16 sum_of_four(f32x16 v) {
  v = v + swap_lanes<A>(v);
  return v + swap_lanes<B>(v);
}

void sinkhorn_of_four(float* c, const float* mix, float scale, const float* base, float eps_, int32_t iterations) {
  const f32x16 eps = set1(eps_), logits = load(mix) * set1(scale) + load(base);
  const f32x16 pairs = max(logits, swap_lanes<1>(logits)), largest = max(pairs, swap_lanes<2>(pairs));
  f32x16 v = exp(logits - largest);
  v = v / sum_of_four<1, 2>(v) + eps;
  v = v / (sum_of_four<4, 8>(v) + eps);
  for (int32_t i = 1; i < iterations; ++i) {
    v = v / (sum_of_four<1, 2>(v) + eps);
    v = v / (sum_of_four<4, 8>(v) + eps);
  }
  store(c, v);
}

// Rows of `count` values that lie `step` apart, each `stride` from the next: divided by their sums.
V4NPU_INLINE void divide_by_sums(float* c, int64_t rows, int64_t stride, int64_t count, int64_t step, float eps) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = c + r * stride;
    float sum = 0.0f;
    for (int64_t i = 0; i < count; ++i) sum += row[i * step];
    for (int64_t i = 0; i < count; ++i) row[i * step] /= sum + eps;
  }
}

void sinkhorn(float* c, const float* mix, float scale, const float* base, float eps, int64_t m, int32_t iterations) {
  for (int64_t j = 0; j < m; ++j) {
    float *row = c + j * m, largest = -__builtin_inff();
    for (int64_t k = 0; k < m; ++k) {
      row[k] = mix[j * m + k] * scale + base[j * m + k];
      largest = row[k] > largest ? row[k] : largest;  // a NaN spoils the row below
    }
    for (int64_t k = 0; k < m; k += kLanes) store_upto(row + k, exp(load_upto(row + k, m - k) - set1(largest)), m - k);
    divide_by_sums(row, 1, m, m, 1, 0.0f);
    for (int64_t k = 0; k < m; ++k) row[k] += eps;
  }
  divide_by_sums(c, m, 1, m, m, eps);
  for (int32_t i = 1; i < iterations; ++i) {
    divide_by_sums(c, m, m, m, 1, eps);
    divide_by_sums(c, m, 1, m, m, eps);
  }
}

template <class T>
void launch(const HcPreParams& p) {
  const int64_t m = p.hc_mult, d = p.hidden_size, mixes = (2 + m) * m;
  const auto* streams = static_cast<const T*>(p.streams);
  products_then(streams, p.num_tokens, p.fn, mixes, m * d, p.mix, [&](int64_t t) {
    const T* x = streams + t * m * d;
    float *mix = p.mix + t * mixes, *comb = p.comb + t * m * m;
    normalise_mix(mix, mixes, x, m * d, p.norm_eps);                          // 1 mix
    weights(mix, mix, p.base, m, p.scale[0], 1.0f, p.hc_eps);                 // 2 pre
    weights(p.post + t * m, mix + m, p.base + m, m, p.scale[1], 2.0f, 0.0f);  // 3 post
    if (m == 4) {                                                             // 4 logits   5 Sinkhorn
      sinkhorn_of_four(comb, mix + 8, p.scale[2], p.base + 8, p.hc_eps, p.sinkhorn_iters);
    } else {
      sinkhorn(comb, mix + 2 * m, p.scale[2], p.base + 2 * m, p.hc_eps, m, p.sinkhorn_iters);
    }
    collapse(static_cast<T*>(p.y) + t * d, x, mix, m, d);  // 6 sum, one rounding
  });
}

}  // namespace

void hc_pre(const HcPreParams& p) { p.dtype == Dtype::kFloat32 ? launch<float>(p) : launch<bf16>(p); }

}  // namespace v4npu::cpu::V4NPU_ISA
