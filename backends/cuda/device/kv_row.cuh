// A KV row or index key in a warp's registers, from projection or pool to the cache: norm, RoPE, Hadamard, the FP8 and
// FP4 roundings and their packed forms, for qkv_prepare and compressor. Rows have up to 1,024 values, an even number.
// Lane l holds chunks l, l + 32, ... of 8 values: a pair lies in a chunk, a block of 64 in 8 neighbouring lanes, one of
// 32 in 4.
#pragma once

#include "hadamard.cuh"
#include "pages.cuh"
#include "quant.cuh"
#include "rotary.cuh"

namespace v4npu::cuda {

constexpr int kRowPieces = kWarpRow / (kWarp * kChunk);
constexpr int64_t kKvBlock = kKvGroup, kKeyBlock = kKeyGroup;  // values to a scale

struct WarpRow {
  float v[kRowPieces][kChunk];
  int64_t n;

  // Of the first value of piece c in this lane.
  static V4NPU_INLINE int64_t place(int c) { return (c * kWarp + lane_id()) * kChunk; }

  template <class X>
  V4NPU_INLINE void load(const X* x) {
    const bool pieces = in_pieces(x, n);
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j) v[c][j] = 0.0f;
      if (place(c) < n) load_chunk(x, place(c), n, pieces, v[c]);
    }
  }
  template <class T>
  V4NPU_INLINE void store(T* out) const {
    const bool pieces = in_pieces(out, n);
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      if (place(c) < n) store_chunk(out, place(c), n, pieces, v[c]);
    }
  }

  // f(value, index) instead of every value
  template <class F>
  V4NPU_INLINE void map(const F& f) {
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      if (place(c) >= n) continue;
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j) v[c][j] = f(v[c][j], place(c) + j);
    }
  }

  // Sum of squares, each rounded to S.
  template <class S>
  V4NPU_INLINE float squares() const {
    float sum[kChunk] = {};
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j)
        sum[j] = sizeof(S) == 4 ? fmaf(v[c][j], v[c][j], sum[j]) : sum[j] + rounded<S>(v[c][j] * v[c][j]);
    }
    return warp_sum(tree_sum(sum));
  }

  V4NPU_INLINE float dot(const WarpRow& other) const {
    float sum[2] = {};
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j) sum[j % 2] = fmaf(v[c][j], other.v[c][j], sum[j % 2]);
    }
    return warp_sum(sum[0] + sum[1]);
  }
  V4NPU_INLINE void add(float factor, const WarpRow& other) {
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j) v[c][j] = fmaf(factor, other.v[c][j], v[c][j]);
    }
  }

  // x / rms(x) * weight, one rounding; no weight: null.
  template <class T, class W>
  V4NPU_INLINE void norm(const W* weight, float eps) {
    const float scale = inverse_rms(squares<float>(), n, eps);
    const bool pieces = in_pieces(weight, n);
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      if (place(c) >= n) continue;
      float w[kChunk];
      if (weight != nullptr) load_chunk(weight, place(c), n, pieces, w);
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j)
        v[c][j] = rounded<T>(weight != nullptr ? v[c][j] * scale * w[j] : v[c][j] * scale);
    }
  }

  // The values from `keep` on, by the turns of their pairs, rounded.
  template <class T>
  V4NPU_INLINE void rope(const Turn* turns, int64_t keep) {
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; j += 2) {
        const int64_t i = place(c) + j;
        if (i < keep || i >= n) continue;
        turn_pair(v[c][j], v[c][j + 1], turns[(i - keep) / 2]);
        v[c][j] = rounded<T>(v[c][j]);
        v[c][j + 1] = rounded<T>(v[c][j + 1]);
      }
    }
  }

  // The largest magnitude of the block of piece c that this lane belongs to, of values before `end`; NaN if there is
  // one.
  template <int64_t Block>
  V4NPU_INLINE float block_magnitude(int c, int64_t end) const {
    float largest = 0.0f;
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      largest = larger_or_nan(largest, place(c) + j < end ? magnitude(v[c][j]) : 0.0f);
    }
    V4NPU_UNROLL
    for (int mask = 1; mask * kChunk < Block; mask *= 2)
      largest = larger_or_nan(largest, bits_float(shuffle_xor(float_bits(largest), mask)));
    return largest;
  }

  // The first `keep` values as e4m3 times a scale per block.
  template <class T, int64_t Block = kKvBlock>
  V4NPU_INLINE void round_fp8(int64_t keep) {
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      if (c * kWarp * kChunk >= keep) continue;
      const uint8_t scale = e4m3_block_scale(block_magnitude<Block>(c, keep));
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j) {
        if (place(c) + j < keep) v[c][j] = rounded<T>(round_e4m3(v[c][j], scale));
      }
    }
  }

  // Hadamard, rounded, of 32 to 256 values, a power of two.
  template <class T>
  V4NPU_INLINE void hadamard() {
    warp_butterflies(v[0], static_cast<int>(n));
    const float factor = hadamard_factor(static_cast<int>(n));
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) v[0][j] = rounded<T>(v[0][j] * factor);
  }
  // As many as e2m1 times a scale per 32.
  template <class T>
  V4NPU_INLINE void round_fp4() {
    const uint8_t scale = e2m1_block_scale(block_magnitude<kKeyBlock>(0, n));
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) v[0][j] = rounded<T>(round_e2m1(v[0][j], scale));
  }

  // Packed forms of what was rounded so. Their scales are those of the rounded values, as everywhere, so that the bytes
  // depend on the row alone.
  V4NPU_INLINE void pack_fp8(const SlotRow& to, int64_t keep) const {
    const bool words = reinterpret_cast<uintptr_t>(to.payload) % 16 == 0 && keep % kChunk == 0;
    V4NPU_UNROLL
    for (int c = 0; c < kRowPieces; ++c) {
      if (c * kWarp * kChunk >= n) continue;
      const uint8_t scale = e4m3_block_scale(block_magnitude<kKvBlock>(c, keep));
      const float inverse = e8m0_inverse(scale);
      if (place(c) < keep && place(c) % kKvBlock == 0) to.scales[place(c) / kKvBlock] = scale;
      const auto code = [&](int j) { return uint32_t{e4m3_encode(v[c][j] * inverse)}; };
      if (words && place(c) < keep) {
        store_as(to.payload + place(c), u32x2{code(0) | code(1) << 8 | code(2) << 16 | code(3) << 24,
                                              code(4) | code(5) << 8 | code(6) << 16 | code(7) << 24});
        continue;
      }
      auto* turned = reinterpret_cast<bf16*>(to.payload + keep);
      V4NPU_UNROLL
      for (int j = 0; j < kChunk; ++j) {
        const int64_t i = place(c) + j;
        if (i < keep) {
          to.payload[i] = static_cast<uint8_t>(code(j));
        } else if (i < n) {
          turned[i - keep].bits = to_bf16_bits(v[c][j]);
        }
      }
    }
  }
  V4NPU_INLINE void pack_fp4(const SlotRow& to) const {
    const uint8_t scale = e2m1_block_scale(block_magnitude<kKeyBlock>(0, n));
    const float inverse = e8m0_inverse(scale);
    if (place(0) >= n) return;
    if (place(0) % kKeyBlock == 0) to.scales[place(0) / kKeyBlock] = scale;
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; j += 2) {  // a block with a NaN has it in its scale
      const uint8_t even = scale == 255 ? 0 : e2m1_clamped(v[0][j] * inverse);
      const uint8_t odd = scale == 255 ? 0 : e2m1_clamped(v[0][j + 1] * inverse);
      to.payload[(place(0) + j) / 2] = e2m1_pack(even, odd);
    }
  }
  V4NPU_INLINE void pack_fp8_key(const SlotRow& to) const {
    const uint8_t scale = e4m3_block_scale(block_magnitude<kMaxIndexHead>(0, n));
    const float inverse = e8m0_inverse(scale);
    if (lane_id() < 4) to.scales[lane_id()] = static_cast<uint8_t>(float_bits(e8m0_decode(scale)) >> 8 * lane_id());
    V4NPU_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      if (place(0) + j < n) to.payload[place(0) + j] = e4m3_encode(v[0][j] * inverse);
    }
  }
};

}  // namespace v4npu::cuda
