// indexer_query on the CPU: a thread takes whole heads, each turned and transformed on the stack (16 KiB). Sines and
// cosines are computed once for the heads of a token that a thread has.
#include "v4npu/ops/indexer_query.h"

#include "paged/row_ops.h"
#include "parallel.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kMaxHead = 1024;  // the launcher hands longer heads to the reference

template <class T>
void heads(const IndexerQueryParams& p, int64_t begin, int64_t end) {
  const int64_t n = p.head_dim, keep = n - p.rope_dim;
  const float norm = hadamard_norm(n);
  float cosines[kMaxHead], sines[kMaxHead], row[kMaxHead];
  T head[kMaxHead];
  int64_t token = -1;
  for (int64_t at = begin; at < end; ++at) {
    if (at / p.num_heads != token) {
      token = at / p.num_heads;
      angles(p.positions[token], p.freqs, p.rope_dim, false, cosines, sines);
    }
    const T* q = static_cast<const T*>(p.q) + at * n;
    T *to = static_cast<T*>(p.out) + at * n, *out = p.official ? head : to;
    std::memcpy(out, q, static_cast<size_t>(keep) * sizeof(T));
    turn(q + keep, cosines, sines, p.rope_dim, out + keep);  // 1 rope
    if (!p.official) continue;
    hadamard_row(head, n, norm, row, head);  // 2 hadamard
    round_fp4(head, n, to);                  // 3 FP4
  }
}

}  // namespace

void indexer_query(const IndexerQueryParams& p) {
  const auto body = p.dtype == Dtype::kFloat32 ? &heads<float> : &heads<bf16>;
  parallel_rows(p.num_tokens * p.num_heads, 4 * p.head_dim, [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace v4npu::cpu::V4NPU_ISA
