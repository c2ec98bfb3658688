// hc_post on the CPU: a thread takes pieces of 1024 columns of a token's streams; every column is computed by itself.
#include "v4npu/ops/hc_post.h"

#include "parallel.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kPiece = 1024;
constexpr int64_t kMaxStreams = 16;  // the launcher hands more to the reference

// Streams > 0: their number, known to the compiler.
template <class T, int Streams>
void pieces(const HcPostParams& p, int64_t begin, int64_t end) {
  const int64_t m = Streams > 0 ? Streams : p.hc_mult, d = p.hidden_size, per_token = (d + kPiece - 1) / kPiece;
  for (int64_t at = begin; at < end; ++at) {
    const int64_t t = at / per_token, first = at % per_token * kPiece;
    const int64_t last = d - first < kPiece ? d : first + kPiece;
    const T *x = static_cast<const T*>(p.x) + t * d, *streams = static_cast<const T*>(p.streams) + t * m * d;
    T* out = static_cast<T*>(p.out) + t * m * d;
    const float *post = p.post + t * m, *comb = p.comb + t * m * m;
    for (int64_t i = first; i < last; i += kLanes) {
      const f32x16 f = load_upto(x + i, last - i);  // 1 widen, all of it before `out` is written: it may be `streams`
      f32x16 h[Streams > 0 ? Streams : kMaxStreams];
      for (int64_t j = 0; j < m; ++j) h[j] = load_upto(streams + j * d + i, last - i);
      for (int64_t k = 0; k < m; ++k) {
        f32x16 sum = set1(comb[k]) * h[0];  // 2 mix
        for (int64_t j = 1; j < m; ++j) sum = fma(set1(comb[j * m + k]), h[j], sum);
        store_upto(out + k * d + i, fma(set1(post[k]), f, sum), last - i);  // 3 add   4 one rounding
      }
    }
  }
}

template <class T>
void launch(const HcPostParams& p) {
  const auto body = p.hc_mult == 4 ? &pieces<T, 4> : &pieces<T, 0>;
  const int64_t columns = p.hidden_size < kPiece ? p.hidden_size : kPiece;
  parallel_rows(p.num_tokens * ((p.hidden_size + kPiece - 1) / kPiece), p.hc_mult * columns,
                [&](int64_t begin, int64_t end) { body(p, begin, end); });
}

}  // namespace

void hc_post(const HcPostParams& p) { p.dtype == Dtype::kFloat32 ? launch<float>(p) : launch<bf16>(p); }

}  // namespace v4npu::cpu::V4NPU_ISA
