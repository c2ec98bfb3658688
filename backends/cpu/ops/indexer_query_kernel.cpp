// indexer_query on the CPU: a thread takes whole heads; a head is widened into a buffer on the stack. Sines and cosines
// are computed once for the heads of a token that a thread has. 12 KiB of stack.
#include "v4npu/ops/indexer_query.h"

#include "parallel.h"
#include "simd.h"
#include "simd/block.h"
#include "simd/hadamard.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kMaxHead = 1024;  // the launcher hands longer heads to the reference
constexpr int64_t kFp4Block = 32;

// 3 round to e2m1 with one scale per block. `row` holds values of type T.
template <class T>
V4NPU_INLINE void store_fp4(T* out, const float* row, int64_t n) {
  for (int64_t first = 0; first < n; first += kFp4Block) {
    const int64_t end = n - first < kFp4Block ? n : first + kFp4Block;
    const uint8_t byte = e2m1_block_scale(largest_magnitude(row + first, end - first));
    const f32x16 scale = set1(e8m0_decode(byte)), inverse = set1(e8m0_inverse(byte));
    for (int64_t i = first; i < end; i += kLanes)
      store_upto(out + i, round_e2m1(load(row + i) * inverse) * scale, end - i);
  }
}

template <class T>
void heads(const IndexerQueryParams& p, int64_t begin, int64_t end) {
  const int64_t n = p.head_dim, keep = n - p.rope_dim;
  const f32x16 norm = set1(hadamard_norm(n));
  float cosines[kMaxHead], sines[kMaxHead], row[kMaxHead];  // both lanes of a pair hold its own factor
  int64_t token = -1;
  for (int64_t at = begin; at < end; ++at) {
    if (at / p.num_heads != token) {
      token = at / p.num_heads;
      const float position = static_cast<float>(p.positions[token]);
      for (int64_t i = 0; i < p.rope_dim; i += 2) {
        const float angle = position * p.freqs[i / 2], s = __builtin_sinf(angle);
        cosines[i] = cosines[i + 1] = __builtin_cosf(angle);
        sines[i] = -s;
        sines[i + 1] = s;
      }
    }
    const T* q = static_cast<const T*>(p.q) + at * n;
    T* out = static_cast<T*>(p.out) + at * n;
    if (!p.official) std::memcpy(out, q, static_cast<size_t>(keep) * sizeof(T));
    for (int64_t i = 0; p.official && i < keep; i += kLanes) store_upto(row + i, load_upto(q + i, keep - i), keep - i);
    for (int64_t i = 0; i < p.rope_dim; i += kLanes) {
      const int64_t count = p.rope_dim - i;
      const f32x16 v = load_upto(q + keep + i, count);
      const f32x16 turned = fma(v, load_upto(cosines + i, count), swap_pairs(v) * load_upto(sines + i, count));
      if (p.official) {
        store_upto(row + keep + i, rounded<T>(turned), count);  // 1 rope
      } else {
        store_upto(out + keep + i, turned, count);
      }
    }
    if (!p.official) continue;
    for (int64_t i = n; i < kLanes; ++i) row[i] = 0.0f;
    transform(row, n);  // 2 hadamard
    for (int64_t i = 0; i < n; i += kLanes) store(row + i, rounded<T>(load(row + i) * norm));
    store_fp4(out, row, n);
  }
}

}  // namespace

void indexer_query(const IndexerQueryParams& p) {
  const auto body = p.dtype == Dtype::kFloat32 ? &heads<float> : &heads<bf16>;
  parallel_rows(p.num_tokens * p.num_heads, 4 * p.head_dim, [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
