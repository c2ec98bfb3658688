// Attention over pages, for window_attention, csa_attention and hca_attention. bfloat16, on tensor cores: a block of 8
// warps takes 16 heads of a token and walks the token's list in blocks of 64 places, window first:
//
//   2 the rows of a block, widened, into shared memory (64 rows of head_dim padded to 128), zeros where there is none;
//     a warp widens 8 of them, most of which have come there before (list_rows.cuh)
//   3 a warp has the scores of its 8 rows: heads are the left operand, rows the right one
//   4 maxima and sums of the warps meet in shared memory, in the order of the warps
//   5 a warp has an eighth of the dims: probabilities are the left operand, the rows as they lie the right one
//
// Official probabilities are one bf16, others the sum of two. Dynamic shared memory: AttentionSpace (shape.h), 76,544
// bytes for a head of 512 of which 64 dims turn, and 592 for each packed row that comes ahead.
//
// A list is walked in segments (shape.h: their length follows from the list's), each with a maximum of its own, and
// their states are folded in order. Where few blocks would run, a token's segments are spread over several, their
// states go to memory, and attention_combine folds them: the same operations, so neither batch nor device shows in a
// result.
//
// float32 is for comparing numbers: a warp takes a head of a token and walks its whole list, 32 places at a time, with
// float32 products. Shared memory: 2 KiB.
#pragma once

#include "kv_row.cuh"
#include "list_rows.cuh"

namespace v4npu::cuda {

constexpr float kLowest = -3.0e38f;  // below any score, and finite: its difference to -infinity is no NaN
constexpr int kMaxPairs = kMaxHeadDim / kRowWarps / 16;

V4NPU_INLINE float larger(float a, float b) { return b > a ? b : a; }

// Softmax of a part of a list in the registers of a thread: of heads g and g + 8, the same in every warp, and of those
// the dims of Pairs accumulators.
template <int Pairs>
struct AttentionState {
  float peak[2] = {kLowest, kLowest}, total[2] = {0.0f, 0.0f};
  float sum[Pairs][2][4] = {};  // 2, 3: of head g + 8

  // `other` comes behind this.
  V4NPU_INLINE void fold(const AttentionState& other, int pairs) {
    V4NPU_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float top = larger(peak[half], other.peak[half]);
      const float mine = expf(peak[half] - top), its = expf(other.peak[half] - top);
      peak[half] = top;
      total[half] = fmaf(other.total[half], its, total[half] * mine);
      V4NPU_UNROLL
      for (int n = 0; n < Pairs; ++n) {
        if (n >= pairs) continue;
        V4NPU_UNROLL
        for (int i = 0; i < 4; ++i) {
          float& to = sum[n][i / 2][2 * half + i % 2];
          to = fmaf(other.sum[n][i / 2][2 * half + i % 2], its, to * mine);
        }
      }
    }
  }

  // In memory the values of a thread lie kRowThreads apart.
  V4NPU_INLINE void store(float* to, int pairs) const {
    V4NPU_UNROLL
    for (int half = 0; half < 2; ++half) {
      to[half * kRowThreads] = peak[half];
      to[(2 + half) * kRowThreads] = total[half];
    }
    V4NPU_UNROLL
    for (int n = 0; n < Pairs; ++n) {
      V4NPU_UNROLL
      for (int i = 0; i < 8; ++i) {
        if (n < pairs) to[(4 + n * 8 + i) * kRowThreads] = sum[n][i / 4][i % 4];
      }
    }
  }
  // All of it but the accumulators before `first` and behind those that there is room for.
  V4NPU_INLINE void load(const float* from, int first) {
    V4NPU_UNROLL
    for (int half = 0; half < 2; ++half) {
      peak[half] = from[half * kRowThreads];
      total[half] = from[(2 + half) * kRowThreads];
    }
    V4NPU_UNROLL
    for (int n = 0; n < Pairs; ++n) {
      V4NPU_UNROLL
      for (int i = 0; i < 8; ++i) sum[n][i / 4][i % 4] = from[(4 + (first + n) * 8 + i) * kRowThreads];
    }
  }

  // 6 sink, normalise   7 one rounding   8 rope, inverse; these are the accumulators from `first` on of the `pairs` of
  // warp w. A lane has both dims that turn together.
  template <class TurnAt>
  V4NPU_INLINE void finish(const Attention& p, int64_t t, int64_t head0, int w, int first, int pairs,
                           const TurnAt& turn_at) {
    const int g = lane_id() / 4, c = lane_id() % 4;
    V4NPU_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t head = head0 + half * 8 + g;
      if (head < p.num_heads && p.attn_sink != nullptr) total[half] += expf(p.attn_sink[head] - peak[half]);
    }
    V4NPU_UNROLL
    for (int i = 0; i < 2 * Pairs; ++i) {
      const int64_t d = (w * pairs + first) * 16 + i * 8 + 2 * c, turned = d - p.head_dim + p.turned_dim;
      if (first + i / 2 >= pairs || d >= p.head_dim) continue;
      const bool turns = p.turned_dim > 0 && turned >= 0;
      const Turn turn = turns ? turn_at(turned / 2) : Turn{};
      V4NPU_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t head = head0 + half * 8 + g;
        if (head >= p.num_heads) continue;
        float a = sum[i / 2][i % 2][2 * half] / total[half], b = sum[i / 2][i % 2][2 * half + 1] / total[half];
        if (turns) {
          a = rounded<bf16>(a), b = rounded<bf16>(b);
          turn_pair(a, b, turn);
        }
        auto* out = static_cast<bf16*>(p.out) + (t * p.num_heads + head) * p.head_dim + d;
        out[0] = narrow<bf16>(a);
        if (d + 1 < p.head_dim) out[1] = narrow<bf16>(b);
      }
    }
  }
};

// The state that a thread of a block leaves for a segment.
V4NPU_INLINE float* state_of(const Attention& p, int64_t t, int64_t tile, int64_t segment, int thread) {
  const int64_t tiles = (p.num_heads + kHeadTile - 1) / kHeadTile;
  return p.states + ((t * tiles + tile) * p.max_segments + segment) * state_values(p.head_dim) * kRowThreads + thread;
}

// The length of a token's list: of no more entries than the table has, for which the states have room.
V4NPU_INLINE int64_t places_of(const Attention& p, QueryPlace at) {
  if (p.compressed_kv == nullptr) return p.window;
  if (p.topk_indices != nullptr) return p.window + p.topk;
  const int64_t complete = (at.position + 1) / p.ratio, known = p.max_blocks * p.block_size;
  return p.window + (complete < known ? complete : known);
}

// What the warps of a block share, and which part of it a thread works on.
struct AttentionBlock {
  static constexpr int kRow = kPlaces + kPadding, kPlane = kHeadTile * kRow;  // of probabilities
  bf16 *tile, *probabilities;
  float *maxima, *sums;
  int64_t stride;  // of the tile's rows
  int g, c, w, pairs;

  V4NPU_INLINE AttentionBlock(const AttentionSpace& space, int64_t head_dim)
      : tile(reinterpret_cast<bf16*>(dynamic_shared())),
        probabilities(reinterpret_cast<bf16*>(dynamic_shared() + space.probabilities)),
        maxima(reinterpret_cast<float*>(dynamic_shared() + space.maxima)),
        sums(reinterpret_cast<float*>(dynamic_shared() + space.sums)),
        stride(padded_dim(head_dim) + kPadding),
        g(lane_id() / 4),
        c(lane_id() % 4),
        w(warp_id()),
        pairs(static_cast<int>(padded_dim(head_dim) / kRowWarps / 16)) {}

  // 1 load q   3 scores of heads g and g + 8, and of the warp's rows 2 c and 2 c + 1
  V4NPU_INLINE void scores(const Attention& p, const bf16* q, bool q_aligned, int64_t head0, float (&score)[4]) const {
    for (int64_t first = 0; first < p.head_dim; first += 64) {
      const int64_t k0 = first + c * kRun;
      Run a[2][1];
      V4NPU_UNROLL
      for (int half = 0; half < 2; ++half) {
        a[half][0] = {};
        if (head0 + half * 8 + g < p.num_heads)
          load_run<Format::kBfloat16>(q + (half * 8 + g) * p.head_dim, nullptr, k0, p.head_dim, q_aligned, a[half]);
      }
      const bf16* key = tile + (w * kWarpPlaces + g) * stride + k0;
      const u32x4 low = load_as<u32x4>(key), high = load_as<u32x4>(key + 8);
      const uint32_t b[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      V4NPU_UNROLL
      for (int i = 0; i < kRun / 2; i += 2) {
        const uint32_t left[4] = {a[0][0].pair[i], a[1][0].pair[i], a[0][0].pair[i + 1], a[1][0].pair[i + 1]};
        const uint32_t right[2] = {b[i], b[i + 1]};
        mma_bf16(score, left, right);
      }
    }
  }

  // 4 online softmax: scaled, -infinity where there is no row; the warp's maxima for all to see.
  V4NPU_INLINE void share_maxima(float (&score)[4], uint32_t present, float scale) const {
    V4NPU_UNROLL
    for (int half = 0; half < 2; ++half) {
      float largest = kLowest;
      V4NPU_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& s = score[2 * half + i];
        s = (present >> (2 * c + i) & 1) != 0 ? s * scale : -bits_float(0x7f800000);
        largest = larger(largest, s);
      }
      V4NPU_UNROLL
      for (int mask = 1; mask < 4; mask *= 2)
        largest = larger(largest, bits_float(shuffle_xor(float_bits(largest), mask)));
      if (c == 0) maxima[w * kHeadTile + half * 8 + g] = largest;
    }
  }
  // Behind a barrier: probabilities and the warp's sums of them, for all to see.
  template <bool Official>
  V4NPU_INLINE void share_probabilities(const float (&score)[4], float (&peak)[2], float (&rescale)[2]) const {
    V4NPU_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float old = peak[half];
      V4NPU_UNROLL
      for (int i = 0; i < kRowWarps; ++i) peak[half] = larger(peak[half], maxima[i * kHeadTile + half * 8 + g]);
      rescale[half] = expf(old - peak[half]);
      const float a = expf(score[2 * half] - peak[half]), b = expf(score[2 * half + 1] - peak[half]);
      float both = a + b;
      V4NPU_UNROLL
      for (int mask = 1; mask < 4; mask *= 2) both += bits_float(shuffle_xor(float_bits(both), mask));
      if (c == 0) sums[w * kHeadTile + half * 8 + g] = both;
      bf16* to = probabilities + (half * 8 + g) * kRow + w * kWarpPlaces + 2 * c;
      store_as(to, pack_bf16(a, b));
      if (!Official) store_as(to + kPlane, pack_bf16(a - rounded<bf16>(a), b - rounded<bf16>(b)));
    }
  }

  // Behind a barrier: 5 accumulate
  template <bool Official>
  V4NPU_INLINE void accumulate(const float (&rescale)[2], AttentionState<kMaxPairs>& part) const {
    V4NPU_UNROLL
    for (int half = 0; half < 2; ++half) {
      part.total[half] *= rescale[half];
      V4NPU_UNROLL
      for (int i = 0; i < kRowWarps; ++i) part.total[half] += sums[i * kHeadTile + half * 8 + g];
    }
    V4NPU_UNROLL
    for (int n = 0; n < kMaxPairs; ++n) {
      if (n >= pairs) continue;
      V4NPU_UNROLL
      for (int i = 0; i < 8; ++i) part.sum[n][i / 4][i % 4] *= rescale[i % 4 / 2];
    }
    for (int k = 0; k < kPlaces; k += 16) {
      V4NPU_UNROLL
      for (int plane = Official ? 0 : 1; plane >= 0; --plane) {
        uint32_t a[4];
        load_matrices(a, probabilities + plane * kPlane + lane_id() % 16 * kRow + k + lane_id() / 16 * 8);
        V4NPU_UNROLL
        for (int n = 0; n < kMaxPairs; ++n) {
          if (n >= pairs) continue;
          uint32_t b[4];
          load_matrices_transposed(b, tile + (k + lane_id() % 16) * stride + (w * pairs + n) * 16 + lane_id() / 16 * 8);
          const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
          mma_bf16(part.sum[n][0], a, first);
          mma_bf16(part.sum[n][1], a, second);
        }
      }
    }
  }
};

template <bool Packed, bool Official>
V4NPU_DEVICE void attend(const Attention& p) {
  const AttentionSpace space(p.head_dim, p.turned_dim);
  const AttentionBlock block(space, p.head_dim);
  auto* turns = reinterpret_cast<Turn*>(dynamic_shared() + space.turns);
  const int64_t t = block_x(), head0 = static_cast<int64_t>(block_y()) * kHeadTile;
  const QueryPlace at = place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t);
  const auto* q = static_cast<const bf16*>(p.q) + (t * p.num_heads + head0) * p.head_dim;
  const bool q_aligned = rows_aligned<Format::kBfloat16>(q, p.head_dim);
  const int64_t places = places_of(p, at), length = segment_places(places), segments = ceil_div(places, length);
  const int64_t each = ceil_div(segments, p.parts), first_segment = block_z() * each;
  const int64_t last_segment = first_segment + each < segments ? first_segment + each : segments;
  const int64_t end = last_segment * length < places ? last_segment * length : places;
  ListRows<Packed> rows(p, space, at, t, places);
  int64_t begin = first_segment * length;
  if (begin < end) rows.copy(begin);
  // Read behind the barriers of a block of places.
  for (int64_t i = thread_id(); i < p.turned_dim / 2; i += kRowThreads)
    turns[i] = turn_of(p.positions[t], p.freqs[i], true);
  AttentionState<kMaxPairs> all, part;
  for (; begin < end; begin += kPlaces) {
    wait_copies<0>();
    sync_block();  // and the sums of the block before have read the tile
    const uint32_t present = rows.widen(block.tile, block.stride);  // 2 gather kv
    sync_warp();
    if (begin + kPlaces < end) rows.copy(begin + kPlaces);
    float score[4] = {}, rescale[2];
    block.scores(p, q, q_aligned, head0, score);
    block.share_maxima(score, present, p.scale);
    sync_block();
    block.template share_probabilities<Official>(score, part.peak, rescale);
    sync_block();
    block.template accumulate<Official>(rescale, part);
    if (begin + kPlaces < end && (begin + kPlaces) % length != 0) continue;
    if (p.parts > 1) {  // the segment is done
      part.store(state_of(p, t, block_y(), begin / length, thread_id()), block.pairs);
    } else {
      all.fold(part, block.pairs);
    }
    part = {};
  }
  if (p.parts == 1) all.finish(p, t, head0, block.w, 0, block.pairs, [&](int64_t i) { return turns[i]; });
}

// The states of a token's segments in their order. Grid: tokens, tiles of heads, then pairs of tiles of 8 dims, a
// warp to each.
V4NPU_DEVICE void combine(const Attention& p) {
  const int64_t t = block_x(), tile = block_y(), dim = padded_dim(p.head_dim);
  const int pairs = static_cast<int>(dim / kRowWarps / 16), n = block_z() / kRowWarps, w = block_z() % kRowWarps;
  const int64_t places = places_of(p, place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t));
  const int64_t segments = ceil_div(places, segment_places(places));
  AttentionState<1> all;
  constexpr int kAtOnce = 4;  // segments, so that their loads are under way together
  for (int64_t first = 0; first < segments; first += kAtOnce) {
    AttentionState<1> part[kAtOnce];
    V4NPU_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < segments) part[i].load(state_of(p, t, tile, first + i, w * kWarp + lane_id()), n);
    }
    V4NPU_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < segments) all.fold(part[i], 1);
    }
  }
  all.finish(p, t, tile * kHeadTile, w, n, pairs, [&](int64_t i) { return turn_of(p.positions[t], p.freqs[i], true); });
}

// Grid: tokens, eights of heads.
V4NPU_DEVICE void attend_float(const Attention& p) {
  auto& turns = shared<Turns<kMaxHeadDim / 2>>();
  const int64_t t = block_x(), n = p.head_dim, head = static_cast<int64_t>(block_y()) * kRowWarps + warp_id();
  if (p.turned_dim > 0) {
    turns.fill(p.positions[t], p.freqs, p.turned_dim / 2, true);
    sync_block();
  }
  if (head >= p.num_heads) return;
  const QueryPlace at = place_of(p.cu_seqlens_q, p.start_pos, p.num_seqs, t);
  const int64_t places = places_of(p, at), where = (t * p.num_heads + head) * n;
  WarpRow q{{}, n}, sum{{}, n}, kv{{}, n};
  q.load(static_cast<const float*>(p.q) + where);  // 1 load q
  float peak = kLowest, total = 0.0f;
  const auto gather = [&](int64_t i) {  // 2 gather kv
    const PageRow row = row_of_place<false, float>(p, at, t, i);
    if (row.payload != nullptr) kv.load(reinterpret_cast<const float*>(row.payload));
    return row.payload != nullptr;
  };
  for (int64_t first = 0; first < places; first += kWarp) {
    const int count = static_cast<int>(places - first < kWarp ? places - first : kWarp);
    float score = -bits_float(0x7f800000);  // of place first + lane
    for (int j = 0; j < count; ++j) {
      if (!gather(first + j)) continue;
      const float dot = q.dot(kv);  // 3 scores
      score = lane_id() == j ? dot * p.scale : score;
    }
    const float top = larger(peak, warp_max(score)), rescale = expf(peak - top), mine = expf(score - top);
    peak = top;  // 4 online softmax
    total = fmaf(total, rescale, warp_sum(mine));
    sum.map([&](float x, int64_t) { return x * rescale; });
    for (int j = 0; j < count; ++j) {
      if (gather(first + j)) sum.add(bits_float(shuffle(float_bits(mine), j)), kv);  // 5 accumulate
    }
  }
  if (p.attn_sink != nullptr) total += expf(p.attn_sink[head] - peak);  // 6 sink, normalise
  sum.map([&](float x, int64_t) { return x / total; });
  if (p.turned_dim > 0) sum.rope<float>(turns.of, n - p.turned_dim);  // 8 rope, inverse
  sum.store(static_cast<float*>(p.out) + where);                      // 7
}

}  // namespace v4npu::cuda

// The kernels of an operator.
#define V4NPU_ATTENTION(op)                                                                                            \
  V4NPU_KERNEL(op##_fp32, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) { v4npu::cuda::attend_float(p); }          \
  V4NPU_KERNEL(op##_plain, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) { v4npu::cuda::attend<false, false>(p); } \
  V4NPU_KERNEL(op##_plain_official, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) {                                \
    v4npu::cuda::attend<false, true>(p);                                                                               \
  }                                                                                                                    \
  V4NPU_KERNEL(op##_packed, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) { v4npu::cuda::attend<true, false>(p); } \
  V4NPU_KERNEL(op##_packed_official, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) {                               \
    v4npu::cuda::attend<true, true>(p);                                                                                \
  }                                                                                                                    \
  V4NPU_KERNEL(op##_combine, v4npu::cuda::kWarp, v4npu::cuda::Attention) { v4npu::cuda::combine(p); }
