// compressor on the CPU: a thread takes whole entries, then whole sequences for the state. An entry's window is read
// twice, for the maximum and for the sum, 64 channels at a time, in the order of positions wherever the rows come
// from. Scratch: 4 * head_dim + 8 * rope_dim bytes.
#include "v4npu/ops/compressor.h"

#include "paged/row_ops.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

constexpr int64_t kChannels = 4 * kLanes;

// One sequence of the call.
struct Sequence {
  int64_t first, end, start;  // packed tokens, and the position of the first
  float* state;               // its ring of kv rows, the ring of score rows behind it; may be null
  int64_t first_entry, entries;
};

V4NPU_INLINE Sequence sequence(const CompressorParams& p, int64_t b, int64_t entries_before) {
  const int64_t first = p.cu_seqlens_q[b], end = p.cu_seqlens_q[b + 1], start = p.start_pos[b];
  auto* states = static_cast<float*>(p.state);
  return {first,          end,
          start,          states == nullptr ? nullptr : states + p.state_slots[b] * p.state_stride,
          entries_before, (start + end - first) / p.ratio - start / p.ratio};
}

// The kv and score of a position: of the call, where ape is still to be added, or of the state.
struct Row {
  const float *kv, *score, *ape;
};

V4NPU_INLINE int64_t columns(const CompressorParams& p) { return (p.overlap ? 2 : 1) * p.head_dim; }

struct Window {
  const CompressorParams& p;
  Sequence s;
  int64_t cols;

  V4NPU_MEMBER Row row(int64_t position, int64_t column) const {
    if (position < s.start) {
      const float* kv = s.state + position % p.ring * cols + column;
      return {kv, kv + p.ring * cols, nullptr};
    }
    const int64_t at = (s.first + position - s.start) * cols + column;
    return {static_cast<const float*>(p.kv) + at, static_cast<const float*>(p.score) + at,
            static_cast<const float*>(p.ape) + position % p.ratio * cols + column};
  }
};

V4NPU_INLINE f32x16 score_of(const Row& row, int64_t i, int64_t n) {
  const f32x16 score = load_upto(row.score + i, n);
  return row.ape == nullptr ? score : score + load_upto(row.ape + i, n);  // 1 ape
}

// Steps 1 to 3 for the channels [c, c + n) of the window that begins at `position`.
void pool(const Window& w, int64_t position, int64_t c, int64_t n, float* out) {
  const int64_t ratio = w.p.ratio, own = w.p.overlap ? w.p.head_dim : 0;
  // Before the first token lie rows whose weight is 0.
  const int64_t before = w.p.overlap && position > 0 ? ratio : 0;
  f32x16 peak[4], sum[4], value[4];
  for (int v = 0; v < 4; ++v) peak[v] = set1(-__builtin_inff()), sum[v] = value[v] = zero();
  for (int64_t j = -before; j < ratio; ++j) {
    const Row row = w.row(position + j, (j < 0 ? 0 : own) + c);
    for (int v = 0; v < 4 && v * kLanes < n; ++v) {
      peak[v] = max(peak[v], score_of(row, v * kLanes, n - v * kLanes));
    }
  }
  for (int64_t j = -before; j < ratio; ++j) {
    const Row row = w.row(position + j, (j < 0 ? 0 : own) + c);
    for (int v = 0; v < 4 && v * kLanes < n; ++v) {
      const f32x16 weight = exp(score_of(row, v * kLanes, n - v * kLanes) - peak[v]);  // 2 softmax
      sum[v] = sum[v] + weight;
      value[v] = fma(weight, load_upto(row.kv + v * kLanes, n - v * kLanes), value[v]);  // 3 weighted sum
    }
  }
  for (int v = 0; v < 4 && v * kLanes < n; ++v) store_upto(out + v * kLanes, value[v] / sum[v], n - v * kLanes);
}

template <class T>
V4NPU_INLINE void store_entry(const CompressorParams& p, const T* entry, int64_t slot) {
  const auto find = [&](const RowFormat& format) __attribute__((always_inline)) {
    return find_slot(p.cache, slot, p.block_size, p.block_stride, format);
  };
  using Quant = CompressorParams::Quant;
  const int64_t n = p.head_dim;
  if constexpr (sizeof(T) == sizeof(bf16)) {
    if (p.packed && p.quant == Quant::kFp8) {
      return pack_fp8(entry, n - p.rope_dim, p.rope_dim, find(fp8_kv_row(n, p.rope_dim)));
    }
    if (p.packed && p.quant == Quant::kHadamardFp8) return pack_fp8_key(entry, n, find(fp8_key_row(n)));
    if (p.packed) return pack_fp4(entry, n, find(fp4_key_row(n)));
  }
  const RowFormat plain = plain_row(n, sizeof(T));
  std::memcpy(find(plain).payload, entry, static_cast<size_t>(plain.payload));
}

template <class T, class W>
void entries(const CompressorParams& p, int64_t begin, int64_t end) {
  const int64_t keep = p.head_dim - p.rope_dim;
  const int64_t room = round_up(p.head_dim, kLanes);
  auto* pooled =
      static_cast<float*>(scratch(Scratch::kBody, (room + 2 * p.rope_dim) * static_cast<int64_t>(sizeof(float))));
  float *cosines = pooled + room, *sines = cosines + p.rope_dim;
  int64_t b = 0;
  Window w{p, sequence(p, 0, 0), columns(p)};
  for (int64_t e = begin; e < end; ++e) {
    while (e >= w.s.first_entry + w.s.entries) w.s = sequence(p, ++b, w.s.first_entry + w.s.entries);
    const int64_t position = (w.s.start / p.ratio + e - w.s.first_entry) * p.ratio;
    T* out = static_cast<T*>(p.entries) + e * p.head_dim;
    for (int64_t c = 0; c < p.head_dim; c += kChannels) {
      const int64_t n = p.head_dim - c < kChannels ? p.head_dim - c : kChannels;
      pool(w, position, c, n, pooled + c);
    }
    for (int64_t i = 0; i < p.head_dim; i += kLanes) {
      store_upto(out + i, load_upto(pooled + i, p.head_dim - i), p.head_dim - i);  // 4 rounding
    }
    norm_row(out, static_cast<const W*>(p.norm_weight), p.eps, out, p.head_dim);  // 5 norm
    angles(position, p.freqs, p.rope_dim, false, cosines, sines);
    turn(out + keep, cosines, sines, p.rope_dim, out + keep);  // 6 rope
    using Quant = CompressorParams::Quant;
    if (p.quant == Quant::kHadamardFp4 || p.quant == Quant::kHadamardFp8)
      hadamard_row(out, p.head_dim, hadamard_norm(p.head_dim), pooled, out);  // 7
    if (p.quant == Quant::kFp8) round_fp8(out, keep);
    if (p.quant == Quant::kHadamardFp4) round_fp4(out, p.head_dim, out);
    if (p.quant == Quant::kHadamardFp8) round_fp8(out, p.head_dim, p.head_dim);
    if (p.cache != nullptr && p.slot_mapping[e] >= 0) store_entry(p, out, p.slot_mapping[e]);  // 9 store
  }
}

// 8 the newest rows of the call into the rings; only when every entry has been pooled.
void states(const CompressorParams& p, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    const Window w{p, sequence(p, b, 0), columns(p)};
    const int64_t last = w.s.start + w.s.end - w.s.first;
    for (int64_t t = last - p.ring > w.s.start ? last - p.ring : w.s.start; t < last; ++t) {
      const Row row = w.row(t, 0);
      float *kv = w.s.state + t % p.ring * w.cols, *score = kv + p.ring * w.cols;
      for (int64_t c = 0; c < w.cols; c += kLanes) {
        store_upto(kv + c, load_upto(row.kv + c, w.cols - c), w.cols - c);
        store_upto(score + c, score_of(row, c, w.cols - c), w.cols - c);
      }
    }
  }
}

template <class T>
void launch(const CompressorParams& p) {
  const auto body = p.weight_dtype == Dtype::kFloat32 ? &entries<T, float> : &entries<T, bf16>;
  // Two reads of kv and score, an exponential; a sine and a cosine weigh about 64 elements.
  parallel_rows(p.num_entries, p.ratio * columns(p) * 4 + 32 * p.rope_dim,
                [&](int64_t begin, int64_t end) { body(p, begin, end); });
  if (p.state == nullptr) return;
  const int64_t rows = p.num_seqs > 0 ? p.num_tokens / p.num_seqs : 0;
  parallel_rows(p.num_seqs, (rows < p.ring ? rows : p.ring) * columns(p) * 2,
                [&](int64_t begin, int64_t end) { states(p, begin, end); });
}

}  // namespace

void compressor(const CompressorParams& p) { p.dtype == Dtype::kFloat32 ? launch<float>(p) : launch<bf16>(p); }

}  // namespace v4npu::cpu::V4NPU_ISA
