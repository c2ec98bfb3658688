// Scores of index keys, for indexer_scores and indexer_topk. bfloat16, on tensor cores: a warp takes a query and 32
// keys: 16 heads at a time are the left operand, 8 keys to a tile the right one. Keys come from their pages, packed
// rows widened in registers (formats.cuh), or from the shared memory of a block whose queries share them. The heads of
// a key are added in the order of their tiles, of 16 heads first the two halves, then the lanes; so a score depends on
// query and key alone. float32 is for comparing numbers: a lane takes a key.
#pragma once

#include "pages.cuh"
#include "staging.cuh"

namespace v4npu::cuda {

constexpr int kKeyTiles = 4;  // of 8 keys
constexpr int kWarpKeys = kKeyTiles * 8;

// A value of step 1 to 3, rounded to bf16 where official code rounds.
template <bool Official>
V4NPU_INLINE float step(float x) {
  return Official ? rounded<bf16>(x) : x;
}

// Entries of its sequence that token t may want, as far as the table goes.
template <class Params>
V4NPU_INLINE int64_t visible_entries(const Params& p, QueryPlace place) {
  const int64_t known = (place.position + 1) / p.ratio, width = p.max_blocks * p.block_size;
  return known < width ? known : width;
}

template <Format K>
V4NPU_INLINE RowFormat key_row(int64_t dim) {
  if constexpr (K == Format::kFloat4) return fp4_key_row(dim);
  if constexpr (K == Format::kFloat8) return fp8_key_row(dim);
  return plain_row(dim, kBits<K> / 8);
}

// Where the keys [first, first + 32) of a sequence lie; none from `end` on.
template <Format K>
struct PageKeys {
  static constexpr Format kFormat = K;
  PageRow rows[kKeyTiles];
  int64_t dim;

  template <class Params>
  V4NPU_INLINE PageKeys(const Params& p, int64_t sequence, int64_t first, int64_t end) : dim(p.head_dim) {
    V4NPU_UNROLL
    for (int n = 0; n < kKeyTiles; ++n) rows[n] = row(p, sequence, first + n * 8 + lane_id() / 4, end);
  }
  template <class Params>
  static V4NPU_INLINE PageRow row(const Params& p, int64_t sequence, int64_t s, int64_t end) {
    if (s >= end) return {nullptr, nullptr};
    return page_row(p.keys, p.block_table + sequence * p.max_blocks, p.block_size, p.block_stride,
                    key_row<K>(p.head_dim), s);
  }
  static V4NPU_INLINE void widen(const PageRow& row, int64_t k0, int64_t dim, Run (&out)[1]) {
    out[0] = {};
    if (row.payload == nullptr) return;
    const bool aligned = reinterpret_cast<uintptr_t>(row.payload) % 16 == 0;
    load_run<K>(row.payload, row.scales, k0, dim, aligned, out);
    if constexpr (K == Format::kFloat8) scale_run(load_float(row.scales), out[0]);
  }
  V4NPU_INLINE void run(int n, int64_t k0, Run (&out)[1]) const { widen(rows[n], k0, dim, out); }
};

// Packed keys [first, first + 32) of a sequence, copied to the shared memory of the warp in the background, up to
// `stages` - 1 rounds before it scores them. A barrier of the block lies between two calls of next().
template <Format K>
class StagedKeys {
 public:
  static constexpr Format kFormat = K;
  template <class Params>
  V4NPU_INLINE StagedKeys(const Params& p, int64_t sequence, int64_t first, int64_t end, int stages)
      : dim(static_cast<int>(p.head_dim)), ahead(stages - 1), bytes(static_cast<int>(key_stage_bytes(dim, kBits<K>))) {
    for (int i = 0; i < ahead; ++i) copy(p, sequence, first + i * kRowThreads, end);
  }
  // Until the keys from `first` on are there.
  template <class Params>
  V4NPU_INLINE void next(const Params& p, int64_t sequence, int64_t first, int64_t end) {
    copy(p, sequence, first + ahead * kRowThreads, end);
    used = after(used);
    wait_copies_but(ahead);
    sync_warp();
  }
  V4NPU_INLINE void run(int n, int64_t k0, Run (&out)[1]) const {
    const unsigned char* keys = stage(used);
    const unsigned char* scales = keys + scales_at() + (n * 8 + lane_id() / 4) * words() * 4;
    const uint8_t scale = K == Format::kFloat4 && k0 < dim ? scales[k0 / 32] : uint8_t{0};
    staged_run<K>(keys + (k0 / kStep * kKeyTiles + n) * kGroupBytes<K>, scale, out[0]);
    if constexpr (K == Format::kFloat8) scale_run(load_as<float>(scales), out[0]);
  }

 private:
  V4NPU_INLINE int words() const { return K == Format::kFloat4 ? (dim + 127) / 128 : 1; }
  V4NPU_INLINE int scales_at() const { return (dim + kStep - 1) / kStep * kKeyTiles * kGroupBytes<K>; }
  V4NPU_INLINE int after(int i) const { return i == ahead ? 0 : i + 1; }
  V4NPU_INLINE unsigned char* stage(int i) const { return dynamic_shared() + (warp_id() * (ahead + 1) + i) * bytes; }

  template <class Params>
  V4NPU_INLINE void copy(const Params& p, int64_t sequence, int64_t first, int64_t end) {
    if (first < end) {
      const PageRow row = PageKeys<K>::row(p, sequence, first + lane_id(), end);  // a key to a lane
      const auto at = reinterpret_cast<uintptr_t>(row.payload);
      const auto low = static_cast<uint32_t>(at), high = static_cast<uint32_t>(uint64_t{at} >> 32);
      const auto row_at = [&](int key) {
        const uint64_t of = shuffle(low, key) | uint64_t{shuffle(high, key)} << 32;
        return reinterpret_cast<const void*>(static_cast<uintptr_t>(of));
      };
      const uint64_t places = reinterpret_cast<uintptr_t>(p.keys) | static_cast<uint64_t>(p.block_stride);
      const int row_bytes = dim * kBits<K> / 8, scale_bytes = K == Format::kFloat4 ? dim / 32 : 4;
      unsigned char* to = stage(free);
      for (int column = 0; column < dim; column += kStep)
        copy_rows<K, kWarpKeys>(to + column / kStep * kKeyTiles * kGroupBytes<K>, row_at, column, dim,
                                places % 16 == 0 && row_bytes % 16 == 0);
      to += scales_at() + lane_id() * words() * 4;
      const bool whole = places % 4 == 0 && row_bytes % 4 == 0 && scale_bytes % 4 == 0;
      for (int i = 0; i < words() * 4; i += 4) {
        if (whole) {
          copy_async<4>(to + i, row.scales + i, row.payload != nullptr);
          continue;
        }
        for (int j = i; j < i + 4; ++j) to[j] = row.payload != nullptr && j < scale_bytes ? row.scales[j] : uint8_t{0};
      }
    }
    commit_copies();
    free = after(free);
  }

  const int dim, ahead;
  const int bytes;             // of a stage
  int used = ahead, free = 0;  // stages, which are used in turn
};

// Keys that the block has widened, 64 to a tile, zeros where there is none and behind their ends.
constexpr int kTileKeys = 64, kTileTokens = 32;
struct KeyTile {
  static constexpr int kStride = kMaxIndexHead + kPadding;
  bf16 row[kTileKeys][kStride];
};
template <Format K>
struct TileKeys {
  static constexpr Format kFormat = K;
  const bf16* first;  // of this lane

  V4NPU_INLINE void run(int n, int64_t k0, Run (&out)[1]) const {
    const bf16* at = first + n * 8 * KeyTile::kStride + k0;
    const u32x4 low = load_as<u32x4>(at), high = load_as<u32x4>(at + 8);
    out[0] = {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
  }
};

// Scores of 32 keys for token t. The lane with c = lane % 4 gets those of keys 8 n + 2 c + i, those of no key without
// meaning.
template <bool Official, class Params, class Keys>
V4NPU_INLINE void key_scores(const Params& p, int64_t t, const Keys& keys, float (&total)[kKeyTiles][2]) {
  const int64_t dim = p.head_dim;
  const int g = lane_id() / 4, c = lane_id() % 4;
  const auto* q = static_cast<const bf16*>(p.q) + t * p.num_heads * dim;
  const auto* weights = static_cast<const bf16*>(p.weights) + t * p.num_heads;
  const bool q_aligned = rows_aligned<Format::kBfloat16>(q, dim);
  V4NPU_UNROLL
  for (int n = 0; n < kKeyTiles; ++n) total[n][0] = total[n][1] = 0.0f;
  for (int64_t head0 = 0; head0 < p.num_heads; head0 += 16) {
    float dot[kKeyTiles][4] = {};
    for (int64_t at = 0; at < dim; at += 64) {  // 1 dot
      const int64_t k0 = at + c * kRun;
      Run a[2][1];
      V4NPU_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t head = head0 + half * 8 + g;
        a[half][0] = {};
        if (head < p.num_heads) load_run<Format::kBfloat16>(q + head * dim, nullptr, k0, dim, q_aligned, a[half]);
        pair_like<Keys::kFormat>(a[half][0]);
      }
      V4NPU_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        Run b[1];
        keys.run(n, k0, b);
        V4NPU_UNROLL
        for (int i = 0; i < kRun / 2; i += 2) {
          const uint32_t left[4] = {a[0][0].pair[i], a[1][0].pair[i], a[0][0].pair[i + 1], a[1][0].pair[i + 1]};
          const uint32_t right[2] = {b[0].pair[i], b[0].pair[i + 1]};
          mma_bf16(dot[n], left, right);
        }
      }
    }
    V4NPU_UNROLL
    for (int n = 0; n < kKeyTiles; ++n) {
      V4NPU_UNROLL
      for (int i = 0; i < 2; ++i) {
        float sum = 0.0f;
        V4NPU_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int64_t head = head0 + half * 8 + g;
          if (head >= p.num_heads) continue;
          const float d = step<Official>(dot[n][2 * half + i]);
          sum += step<Official>((d < 0.0f ? 0.0f : d) * widen(weights[head]));  // 2 relu, times weights; NaN passes
        }
        V4NPU_UNROLL
        for (int mask = 4; mask < kWarp; mask *= 2) sum += bits_float(shuffle_xor(float_bits(sum), mask));
        total[n][i] += sum;  // 3 sum over heads
      }
    }
  }
  V4NPU_UNROLL
  for (int n = 0; n < kKeyTiles; ++n) {
    V4NPU_UNROLL
    for (int i = 0; i < 2; ++i) total[n][i] = step<Official>(total[n][i]);  // 4 widen
  }
}

// The score of one float32 key for token t; 0 where there is none.
template <class Params>
V4NPU_INLINE float float_score(const Params& p, int64_t t, const PageRow& row) {
  constexpr int kHeads = 16;
  if (row.payload == nullptr) return 0.0f;
  const int64_t dim = p.head_dim;
  const auto* key = reinterpret_cast<const float*>(row.payload);
  const auto* q = static_cast<const float*>(p.q) + t * p.num_heads * dim;
  const auto* weights = static_cast<const float*>(p.weights) + t * p.num_heads;
  const bool key_pieces = in_pieces(key, dim), q_pieces = in_pieces(q, dim);
  float total = 0.0f;
  for (int64_t head0 = 0; head0 < p.num_heads; head0 += kHeads) {
    const int64_t heads = p.num_heads - head0 < kHeads ? p.num_heads - head0 : kHeads;
    float dot[kHeads] = {}, part = 0.0f;
    for (int64_t i = 0; i < dim; i += kChunk) {  // 1 dot
      float k[kChunk];
      load_chunk(key, i, dim, key_pieces, k);
      V4NPU_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        if (h >= heads) continue;
        float v[kChunk];
        load_chunk(q + (head0 + h) * dim, i, dim, q_pieces, v);
        V4NPU_UNROLL
        for (int j = 0; j < kChunk; ++j) v[j] *= k[j];
        dot[h] += tree_sum(v);
      }
    }
    V4NPU_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      if (h < heads) part += (dot[h] < 0.0f ? 0.0f : dot[h]) * weights[head0 + h];  // 2 relu, times weights; NaN passes
    }
    total += part;  // 3 sum over heads
  }
  return total;
}

}  // namespace v4npu::cuda
