// 16 consecutive values of a row as 8 registers of two bf16, from any stored format. Exact: e4m3 and e2m1 are bf16
// values, and so is their product with a power of two; a float32 is the sum of three. Pairs are neighbours, of e2m1
// values four apart: then what a lane loads is its fragment of an mma, no weight is packed anew, and the few that it is
// multiplied with take the same order (pair_like).
#pragma once

#include "rows.cuh"

namespace v4npu::cuda {

constexpr int kRun = 16;  // values

enum class Format { kBfloat16, kFloat8, kFloat4, kFloat32 };

template <Format F>
inline constexpr int kPlanes = F == Format::kFloat32 ? 3 : 1;

struct Run {
  uint32_t pair[kRun / 2];
};

// Four e4m3 bytes: sign, exponent and mantissa to where bf16 has them make 2^-120 of the value, subnormals included.
V4NPU_INLINE void widen_e4m3(uint32_t bytes, uint32_t& low, uint32_t& high) {
  constexpr uint32_t kSign = 0x80008000u, kMagnitude = 0x07f007f0u, kFactor = 0x7b807b80u;  // 2^120
  const uint32_t a = pick_bytes(bytes, 0, 0x1404), b = pick_bytes(bytes, 0, 0x3424);
  low = multiply_bf16((a & kSign) | (a >> 4 & kMagnitude), kFactor);
  high = multiply_bf16((b & kSign) | (b >> 4 & kMagnitude), kFactor);
  if ((((bytes & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u) == 0) return;
  if ((a & 0x7f00u) == 0x7f00u) low |= 0x7fc0u;  // NaN
  if ((a & 0x7f000000u) == 0x7f000000u) low |= 0x7fc00000u;
  if ((b & 0x7f00u) == 0x7f00u) high |= 0x7fc0u;
  if ((b & 0x7f000000u) == 0x7f000000u) high |= 0x7fc00000u;
}

// Eight e2m1 codes times 2^(scale - 127). A pair is codes i and i + 4, each where its half of the word has it, so that
// bits of both move at once: 15 operations for the eight, fewer than a table of bytes takes. Placed so they are 2^-126
// of the value.
V4NPU_INLINE void widen_e2m1(uint32_t codes, uint8_t scale, uint32_t (&pair)[4]) {
  const auto both = [](uint32_t half) { return half | half << 16; };
  const uint32_t first = scale == 255 ? both(0x7fc0u) : scale <= 128 ? both((scale + 126u) << 7) : both(253u << 7);
  V4NPU_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t magnitude = i < 2 ? codes << (6 - 4 * i) : codes >> (4 * i - 6);
    pair[i] = multiply_bf16((codes << (12 - 4 * i) & both(0x8000u)) | (magnitude & both(0x01c0u)), first);
  }
  if (scale <= 128 || scale == 255) return;
  V4NPU_UNROLL
  for (int i = 0; i < 4; ++i) pair[i] = multiply_bf16(pair[i], both(uint32_t{scale} << 7));
}

V4NPU_INLINE void widen_run(const uint32_t (&e4m3)[4], Run& out) {
  V4NPU_UNROLL
  for (int i = 0; i < 4; ++i) widen_e4m3(e4m3[i], out.pair[2 * i], out.pair[2 * i + 1]);
}
V4NPU_INLINE void widen_run(const uint32_t (&e2m1)[2], uint8_t scale, Run& out) {
  uint32_t a[4], b[4];
  widen_e2m1(e2m1[0], scale, a);
  widen_e2m1(e2m1[1], scale, b);
  out = {{a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]}};
}

// The pairs of a run as e2m1 has them, of which those of `Other` are.
template <Format Other>
V4NPU_INLINE void pair_like(Run& run) {
  if constexpr (Other == Format::kFloat4) {
    V4NPU_UNROLL
    for (int i = 0; i < kRun / 2; i += 4) {
      const uint32_t a = run.pair[i], b = run.pair[i + 1], c = run.pair[i + 2], d = run.pair[i + 3];
      run.pair[i] = pick_bytes(a, c, 0x5410), run.pair[i + 1] = pick_bytes(a, c, 0x7632);
      run.pair[i + 2] = pick_bytes(b, d, 0x5410), run.pair[i + 3] = pick_bytes(b, d, 0x7632);
    }
  }
}

// 2^(scale - 127) as bf16, twice.
V4NPU_INLINE uint32_t scale_pair(uint8_t scale) {
  const uint32_t bits = scale == 255 ? 0x7fc0u : scale == 0 ? 0x0040u : uint32_t{scale} << 7;
  return bits | bits << 16;
}

// Four bytes that may lie anywhere.
V4NPU_INLINE float load_float(const uint8_t* at) {
  if (reinterpret_cast<uintptr_t>(at) % 4 == 0) return load_as<float>(at);
  return bits_float(at[0] | uint32_t{at[1]} << 8 | uint32_t{at[2]} << 16 | uint32_t{at[3]} << 24);
}

// Times a float32, each product rounded to bf16 once. Nothing is rounded where the factor is a power of two, which
// bf16 holds.
V4NPU_INLINE void scale_run(float factor, Run& run) {
  const uint32_t upper = float_bits(factor) >> 16;
  const bool held = (float_bits(factor) & 0xffffu) == 0;
  V4NPU_UNROLL
  for (int i = 0; i < kRun / 2; ++i) {
    float low, high;
    unpack(run.pair[i], low, high);
    run.pair[i] = held ? multiply_bf16(run.pair[i], upper | upper << 16) : pack_bf16(low * factor, high * factor);
  }
}

// x as the sum of three bf16, by cutting off: an infinity or NaN is all in the first.
V4NPU_INLINE void split(float x, float& high, float& middle, float& low) {
  if (is_nan(x)) x = bits_float(0x7fc00000);
  high = bits_float(float_bits(x) & 0xffff0000u);
  const float rest = (float_bits(x) & 0x7f800000u) == 0x7f800000u ? 0.0f : x - high;
  middle = bits_float(float_bits(rest) & 0xffff0000u);
  low = rest - middle;
}

// Values [k0, k0 + 16) of a row of k; zeros behind its end. `aligned`: 16-byte pieces of the row can be read at once.
template <Format F>
V4NPU_INLINE void load_run(const void* row, const uint8_t* scales, int64_t k0, int64_t k, bool aligned,
                           Run (&out)[kPlanes<F>]) {
  const bool whole = aligned && k0 + kRun <= k;
  if constexpr (F == Format::kBfloat16) {
    const auto* p = static_cast<const bf16*>(row) + k0;
    if (whole) {
      const u32x4 a = load_as<u32x4>(p), b = load_as<u32x4>(p + 8);
      out[0] = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
      return;
    }
    V4NPU_UNROLL
    for (int i = 0; i < kRun / 2; ++i) {
      const uint32_t low = k0 + 2 * i < k ? p[2 * i].bits : 0, high = k0 + 2 * i + 1 < k ? p[2 * i + 1].bits : 0;
      out[0].pair[i] = low | high << 16;
    }
  } else if constexpr (F == Format::kFloat8) {
    const auto* p = static_cast<const uint8_t*>(row) + k0;
    uint32_t words[4];
    if (whole) {
      const u32x4 a = load_as<u32x4>(p);
      words[0] = a.x, words[1] = a.y, words[2] = a.z, words[3] = a.w;
    } else {
      V4NPU_UNROLL
      for (int i = 0; i < 4; ++i) {
        words[i] = 0;
        V4NPU_UNROLL
        for (int j = 0; j < 4; ++j) words[i] |= k0 + 4 * i + j < k ? uint32_t{p[4 * i + j]} << (8 * j) : 0;
      }
    }
    widen_run(words, out[0]);
  } else if constexpr (F == Format::kFloat4) {  // k is a multiple of 32
    const auto* p = static_cast<const uint8_t*>(row) + k0 / 2;
    uint32_t words[2] = {0, 0};
    uint8_t scale = 0;
    if (k0 < k) {
      scale = scales[k0 / 32];
      if (whole) {
        const u32x2 a = load_as<u32x2>(p);
        words[0] = a.x, words[1] = a.y;
      } else {
        V4NPU_UNROLL
        for (int i = 0; i < 8; ++i) words[i / 4] |= uint32_t{p[i]} << (8 * (i % 4));
      }
    }
    widen_run(words, scale, out[0]);
  } else {
    const auto* p = static_cast<const float*>(row) + k0;
    V4NPU_UNROLL
    for (int i = 0; i < kRun / 4; ++i) {
      float v[4];
      if (whole) {
        const u32x4 raw = load_as<u32x4>(p + 4 * i);
        v[0] = bits_float(raw.x), v[1] = bits_float(raw.y), v[2] = bits_float(raw.z), v[3] = bits_float(raw.w);
      } else {
        V4NPU_UNROLL
        for (int j = 0; j < 4; ++j) v[j] = k0 + 4 * i + j < k ? p[4 * i + j] : 0.0f;
      }
      V4NPU_UNROLL
      for (int j = 0; j < 2; ++j) {
        float a[3], b[3];
        split(v[2 * j], a[0], a[1], a[2]);
        split(v[2 * j + 1], b[0], b[1], b[2]);
        V4NPU_UNROLL
        for (int s = 0; s < 3; ++s) out[s].pair[2 * i + j] = float_bits(a[s]) >> 16 | (float_bits(b[s]) & 0xffff0000u);
      }
    }
  }
}

template <Format F>
inline constexpr int kBits = F == Format::kBfloat16 ? 16
                             : F == Format::kFloat8 ? 8
                             : F == Format::kFloat4 ? 4
                                                    : 32;

// Where row r of `stride` elements begins.
template <Format F>
V4NPU_INLINE const void* row_of(const void* base, int64_t r, int64_t stride) {
  return static_cast<const unsigned char*>(base) + r * stride * kBits<F> / 8;
}
template <Format F>
V4NPU_INLINE bool rows_aligned(const void* base, int64_t stride) {
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride * kBits<F> % 128 == 0;
}

}  // namespace v4npu::cuda
