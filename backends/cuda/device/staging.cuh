// Operands of products on their way to tensor cores: copied to shared memory in the background (cp.async), some steps
// before they are used. A step is 64 columns, a stage what one step takes; stages are used in turn, like a ring.
//
// Rows lie there in the order in which lanes read them: of 8 rows, lane (g, c) has row g and the run of 16 values that
// begins at 16 c (formats.cuh). Neither copies nor reads meet in a bank.
#pragma once

#include "formats.cuh"

namespace v4npu::cuda {

template <Format F>
inline constexpr int kAcross = kStep * kBits<F> / 128;  // pieces of 16 bytes to a row of a step
template <Format F>
inline constexpr int kGroupBytes = 8 * 16 * kAcross<F>;  // of 8 rows

// Where a piece of a row lies, in pieces.
template <Format F>
V4NPU_INLINE int place_of(int row, int across) {
  if constexpr (F == Format::kBfloat16) {  // a run is two pieces, of which the second lies with those of other lanes
    const int second = across % 2;
    return (row / 8 * 2 + second) * kWarp + ((row % 8 * 4 + across / 2) ^ (second * 4));
  } else {
    return row * kAcross<F> + across;
  }
}

// A warp copies columns [first, first + 64) of `Rows` rows of k, which begin at row_at(r); null, and behind the end:
// zeros. Not `aligned`: by loads and stores, which are visible no earlier.
template <Format F, int Rows, class RowAt>
V4NPU_INLINE void copy_rows(unsigned char* to, const RowAt& row_at, int first, int k, bool aligned) {
  const int end = k * kBits<F> / 8, begin = first * kBits<F> / 8 + lane_id() % kAcross<F> * 16;
  V4NPU_UNROLL
  for (int i = 0; i < Rows * kAcross<F> / kWarp; ++i) {
    const int row = (i * kWarp + lane_id()) / kAcross<F>;
    const auto* from = static_cast<const unsigned char*>(row_at(row));
    unsigned char* piece = to + place_of<F>(row, lane_id() % kAcross<F>) * 16;
    if (aligned) {
      copy_async<16>(piece, from + begin, from != nullptr && begin < end);
      continue;
    }
    for (int at = begin; at < begin + 16; ++at) piece[at - begin] = from != nullptr && at < end ? from[at] : uint8_t{0};
  }
}

// The run of this lane of 8 copied rows; e2m1 times 2^(scale - 127).
template <Format F>
V4NPU_INLINE void staged_run(const unsigned char* rows, uint8_t scale, Run& out) {
  const int lane = lane_id();
  if constexpr (F == Format::kBfloat16) {
    const u32x4 a = load_as<u32x4>(rows + lane * 16), b = load_as<u32x4>(rows + (kWarp + (lane ^ 4)) * 16);
    out = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  } else if constexpr (F == Format::kFloat8) {
    const u32x4 a = load_as<u32x4>(rows + lane * 16);
    widen_run({a.x, a.y, a.z, a.w}, out);
  } else {
    const u32x2 a = load_as<u32x2>(rows + lane * 8);
    widen_run({a.x, a.y}, scale, out);
  }
}
V4NPU_INLINE void store_staged_run(unsigned char* rows, const Run& run) {  // as bf16
  const auto& p = run.pair;
  store_as(rows + lane_id() * 16, u32x4{p[0], p[1], p[2], p[3]});
  store_as(rows + (kWarp + (lane_id() ^ 4)) * 16, u32x4{p[4], p[5], p[6], p[7]});
}

template <bool Stages, class Through, class Straight>
struct Choice {
  using Type = Through;
};
template <class Through, class Straight>
struct Choice<false, Through, Straight> {
  using Type = Straight;
};

// Until at most `pending` of the groups that this thread committed are on their way: up to 6.
V4NPU_INLINE void wait_copies_but(int pending) {
  switch (pending) {
    case 0: return wait_copies<0>();
    case 1: return wait_copies<1>();
    case 2: return wait_copies<2>();
    case 3: return wait_copies<3>();
    case 4: return wait_copies<4>();
    case 5: return wait_copies<5>();
    default: return wait_copies<6>();
  }
}

}  // namespace v4npu::cuda
