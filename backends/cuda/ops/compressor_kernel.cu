// compressor on CUDA (sm_80 and later), two kernels. compressor_entries: a block of 256 threads takes an entry. A
// thread has 8 channels of every g-th row of the window, and the parts of the groups are added in their order; the
// pooled row is then one warp's: norm, RoPE, rounding and store (device/kv_row.cuh). compressor_states, once every
// entry is pooled: a block copies a row of a sequence into its ring. Shared memory: 32 KiB.
// Limits: 128 registers, 32 bytes of stack, 32768 bytes of shared memory.
#include "v4npu/ops/compressor.h"

#include "../device/kv_row.cuh"

namespace v4npu::cuda {

// kv and score of a position: of the call, where ape is still to be added, or of the state.
struct Row {
  const float *kv, *score, *ape;
};

// One sequence of the call.
struct Sequence {
  int64_t first, end, start;  // packed tokens, and the position of the first
  float* state;               // its ring of kv rows, that of score rows behind it; may be null
};

V4NPU_INLINE int64_t columns(const CompressorParams& p) { return (p.overlap ? 2 : 1) * p.head_dim; }

V4NPU_INLINE Sequence sequence(const CompressorParams& p, int64_t b) {
  float* state = static_cast<float*>(p.state);
  if (state != nullptr) state += p.state_slots[b] * p.state_stride;
  return {p.cu_seqlens_q[b], p.cu_seqlens_q[b + 1], p.start_pos[b], state};
}

V4NPU_INLINE Row row_of(const CompressorParams& p, const Sequence& s, int64_t position) {
  const int64_t cols = columns(p);
  if (position < s.start) {
    const float* kv = s.state + position % p.ring * cols;
    return {kv, kv + p.ring * cols, nullptr};
  }
  const int64_t at = (s.first + position - s.start) * cols;
  return {static_cast<const float*>(p.kv) + at, static_cast<const float*>(p.score) + at,
          static_cast<const float*>(p.ape) + position % p.ratio * cols};
}

V4NPU_INLINE void score_chunk(const Row& row, int64_t i, int64_t n, bool pieces, float (&v)[kChunk]) {
  load_chunk(row.score, i, n, pieces, v);
  if (row.ape == nullptr) return;
  float ape[kChunk];
  load_chunk(row.ape, i, n, pieces, ape);
  V4NPU_UNROLL
  for (int j = 0; j < kChunk; ++j) v[j] += ape[j];  // 1 ape
}

struct EntryPlace {
  int64_t sequence, position;  // of its window's first token; sequence -1 = the call has no such entry
};

// Of entry e, by counting those of 32 sequences at a time; every warp for itself.
V4NPU_INLINE EntryPlace place_of_entry(const CompressorParams& p, int64_t e) {
  for (int64_t base = 0; base < p.num_seqs; base += kWarp) {
    const int64_t b = base + lane_id() < p.num_seqs ? base + lane_id() : p.num_seqs - 1;
    const int64_t start = p.start_pos[b], first = start / p.ratio;
    const int64_t last = (start + p.cu_seqlens_q[b + 1] - p.cu_seqlens_q[b]) / p.ratio;
    const auto count = static_cast<uint32_t>(base + lane_id() < p.num_seqs ? last - first : 0);
    uint32_t sum = count;  // of the lanes up to this one
    V4NPU_UNROLL
    for (int d = 1; d < kWarp; d *= 2) {
      const uint32_t other = shuffle(sum, lane_id() >= d ? lane_id() - d : lane_id());
      if (lane_id() >= d) sum += other;
    }
    const uint32_t behind = ballot(e < sum);
    if (behind != 0) {
      const int lane = count_bits(~behind & (behind - 1));  // the first
      const int64_t before = shuffle(sum - count, lane), window = shuffle(static_cast<uint32_t>(first), lane);
      return {base + lane, (window + e - before) * p.ratio};
    }
    e -= shuffle(sum, kWarp - 1);
  }
  return {-1, 0};
}

struct Pool {
  float maxima[kRowThreads * kChunk], sums[kRowThreads * kChunk], values[kRowThreads * kChunk];  // by group, channel
  float row[kWarpRow];
  Turns<kWarpRow / 2> turns;
};

// Steps 1 to 3 of the window that begins at `position`, into pool.row.
V4NPU_INLINE void pool_window(const CompressorParams& p, const Sequence& s, int64_t position, Pool& pool) {
  const int64_t n = p.head_dim, chunks = ceil_div(n, kChunk), rows = (p.overlap ? 2 : 1) * p.ratio;
  const int64_t most = kRowThreads / chunks, groups = most < rows ? most : rows, width = chunks * kChunk;
  const int64_t group = thread_id() / chunks, channel = thread_id() % chunks * kChunk, own = p.overlap ? n : 0;
  const int64_t begin = position + p.ratio - rows;  // before the first token lie rows whose weight is 0
  const bool works = group < groups;
  const bool pieces = n % kChunk == 0 && in_pieces(static_cast<const float*>(p.kv), n) &&
                      in_pieces(static_cast<const float*>(p.score), n) &&
                      in_pieces(static_cast<const float*>(p.ape), n) && in_pieces(s.state, n);
  const auto row_at = [&](int64_t t) {
    Row row = row_of(p, s, t);
    const int64_t half = t < position ? 0 : own;
    row.kv += half, row.score += half;
    if (row.ape != nullptr) row.ape += half;
    return row;
  };
  float peak[kChunk], sum[kChunk] = {}, value[kChunk] = {};
  V4NPU_UNROLL
  for (int j = 0; j < kChunk; ++j) peak[j] = -bits_float(0x7f800000);
  for (int64_t t = begin + group; works && t < position + p.ratio; t += groups) {
    if (t < 0) continue;
    float v[kChunk];
    score_chunk(row_at(t), channel, n, pieces, v);
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) peak[j] = v[j] > peak[j] ? v[j] : peak[j];
  }
  V4NPU_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (works) pool.maxima[group * width + channel + j] = peak[j];
  }
  sync_block();
  for (int64_t g = 0; works && g < groups; ++g) {
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      const float other = pool.maxima[g * width + channel + j];
      peak[j] = other > peak[j] ? other : peak[j];
    }
  }
  for (int64_t t = begin + group; works && t < position + p.ratio; t += groups) {
    if (t < 0) continue;
    const Row row = row_at(t);
    float v[kChunk], kv[kChunk];
    score_chunk(row, channel, n, pieces, v);
    load_chunk(row.kv, channel, n, pieces, kv);
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      const float weight = expf(v[j] - peak[j]);  // 2 softmax
      sum[j] += weight;
      value[j] = fmaf(weight, kv[j], value[j]);  // 3 weighted sum
    }
  }
  V4NPU_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (!works) continue;
    pool.sums[group * width + channel + j] = sum[j];
    pool.values[group * width + channel + j] = value[j];
  }
  sync_block();
  for (int64_t i = thread_id(); i < n; i += kRowThreads) {
    float total = 0.0f, weighted = 0.0f;
    for (int64_t g = 0; g < groups; ++g) {
      total += pool.sums[g * width + i];
      weighted += pool.values[g * width + i];
    }
    pool.row[i] = weighted / total;
  }
}

template <class T, class W>
V4NPU_DEVICE void entries(const CompressorParams& p) {
  auto& pool = shared<Pool>();
  const int64_t e = block_x(), n = p.head_dim, keep = n - p.rope_dim;
  const EntryPlace place = place_of_entry(p, e);
  T* out = static_cast<T*>(p.entries) + e * n;
  const Sequence s = place.sequence < 0 ? Sequence{} : sequence(p, place.sequence);
  const int64_t oldest = p.overlap && place.position > 0 ? place.position - p.ratio : place.position;
  if (place.sequence < 0 || (s.state == nullptr && oldest < s.start)) {  // what the CPU refuses by reading values
    for (int64_t i = thread_id(); i < n; i += kRowThreads) out[i] = narrow<T>(bits_float(0x7fc00000));
    return;
  }
  pool.turns.fill(place.position, p.freqs, p.rope_dim / 2, false);
  pool_window(p, s, place.position, pool);
  sync_block();
  if (warp_id() != 0) return;
  WarpRow row{{}, n};
  row.load(pool.row);
  row.map([](float x, int64_t) { return rounded<T>(x); });   // 4 rounding
  row.norm<T>(static_cast<const W*>(p.norm_weight), p.eps);  // 5 norm
  row.rope<T>(pool.turns.of, keep);                          // 6 rope
  using Quant = CompressorParams::Quant;
  const bool fp8_key = p.quant == Quant::kHadamardFp8, fp4_key = p.quant == Quant::kHadamardFp4;
  if (p.quant == Quant::kFp8) row.round_fp8<T>(keep);  // 7 quant
  if (fp4_key || fp8_key) row.hadamard<T>();
  if (fp4_key) row.round_fp4<T>();
  if (fp8_key) row.round_fp8<T, kMaxIndexHead>(n);
  row.store(out);
  if (p.cache == nullptr || p.slot_mapping[e] < 0) return;  // 9 store
  const auto to = [&](const RowFormat& format) {
    return slot_row(p.cache, p.slot_mapping[e], p.block_size, p.block_stride, format);
  };
  if (!p.packed) {
    row.store(reinterpret_cast<T*>(to(plain_row(n, sizeof(T))).payload));
  } else if (p.quant == Quant::kFp8) {
    row.pack_fp8(to(fp8_kv_row(n, p.rope_dim)), keep);
  } else if (fp8_key) {
    row.pack_fp8_key(to(fp8_key_row(n)));
  } else {
    row.pack_fp4(to(fp4_key_row(n)));
  }
}

// 8 the j-th newest row of the call into the ring of its sequence. Grid: sequences times rows, as many as can be new.
V4NPU_DEVICE void states(const CompressorParams& p) {
  const int64_t rows = p.ring < p.num_tokens ? p.ring : p.num_tokens, block = block_x();
  const Sequence s = sequence(p, block / rows);
  const int64_t t = s.start + s.end - s.first - 1 - block % rows, cols = columns(p);
  if (t < s.start) return;
  const Row row = row_of(p, s, t);
  float *kv = s.state + t % p.ring * cols, *score = kv + p.ring * cols;
  for (int64_t i = thread_id(); i < cols; i += kRowThreads) {
    kv[i] = row.kv[i];
    score[i] = row.score[i] + row.ape[i];
  }
}

}  // namespace v4npu::cuda

V4NPU_KERNEL(compressor_entries_fp32_fp32, v4npu::cuda::kRowThreads, v4npu::CompressorParams) {
  v4npu::cuda::entries<float, float>(p);
}
V4NPU_KERNEL(compressor_entries_fp32_bf16, v4npu::cuda::kRowThreads, v4npu::CompressorParams) {
  v4npu::cuda::entries<float, v4npu::cuda::bf16>(p);
}
V4NPU_KERNEL(compressor_entries_bf16_fp32, v4npu::cuda::kRowThreads, v4npu::CompressorParams) {
  v4npu::cuda::entries<v4npu::cuda::bf16, float>(p);
}
V4NPU_KERNEL(compressor_entries_bf16_bf16, v4npu::cuda::kRowThreads, v4npu::CompressorParams) {
  v4npu::cuda::entries<v4npu::cuda::bf16, v4npu::cuda::bf16>(p);
}
V4NPU_KERNEL(compressor_states, v4npu::cuda::kRowThreads, v4npu::CompressorParams) { v4npu::cuda::states(p); }
