// moe_experts on the CPU. The (token, expert) pairs are sorted by expert; experts are taken in groups of about
// kGroupPairs pairs, so that the memory does not grow with the batch. In a group
//   pack x        tiles of 16 tokens of one expert                                     step 1 was done for each token
//   once up            item = (expert, 128 rows of w1 and w3): steps 2, 3, 4 while the sums are in cache pack hidden
//   down          item = 32 rows of w2 of every expert in turn: steps 5, 6 into columns of out that are the item's own
// so each weight is read once per call (per block_tokens of the plan), and the sum over experts needs no atomics.
#include "v4npu/ops/moe_experts.h"

#include "gemm.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

using Params = MoeExpertsParams;

constexpr int64_t kTokensAhead = 8;  // whose sums are asked for: they lie anywhere

// kGroupPairs or fewer of an expert's pairs, which lie in the order of topk_indices.
struct Expert {
  int32_t index, first, count, tile;  // pairs [first, first + count); its tiles in the group's packed activations

  int64_t columns() const { return count < kTile ? count : kTile; }
};

struct Plan {
  int32_t* token;   // [pairs]
  float* weight;    // [pairs]
  Expert* experts;  // those with pairs, ascending
  int64_t num_experts;
};

void sort_pairs(const Params& p, int32_t* offsets, Plan& plan) {
  const int64_t pairs = p.num_tokens * p.topk;
  std::memset(offsets, 0, static_cast<size_t>(p.num_experts + 1) * sizeof(int32_t));
  for (int64_t i = 0; i < pairs; ++i) ++offsets[p.topk_indices[i] + 1];
  plan.num_experts = 0;
  for (int32_t e = 0; e < p.num_experts; ++e) {
    const int32_t count = offsets[e + 1];
    for (int32_t i = 0; i < count; i += kGroupPairs) {
      const int32_t some = count - i < kGroupPairs ? count - i : static_cast<int32_t>(kGroupPairs);
      plan.experts[plan.num_experts++] = {e, offsets[e] + i, some, 0};
    }
    offsets[e + 1] += offsets[e];
  }
  for (int64_t i = 0; i < pairs; ++i) {
    const int32_t at = offsets[p.topk_indices[i]]++;
    plan.token[at] = static_cast<int32_t>(i / p.topk);
    plan.weight[at] = p.topk_weights[i];
  }
}

// x rounded to FP8 and back (act_quant.h), 128 values at a time. Without codes, and without branches, so that a
// compiler makes vectors of it.
template <class T, class E>
void fp8_round(const T* x, int64_t n, E* out) {
  for (int64_t i = 0; i < n; i += kSegment) {
    const int64_t m = n - i < kSegment ? n - i : kSegment;
    float v[kSegment];
    f32x16 largest = zero(), sum = zero();
    for (int64_t j = 0; j < m; j += kLanes) {
      const f32x16 a = load_upto(x + i + j, m - j);
      store(v + j, a);
      largest = max(largest, max(a, zero() - a));
      sum = sum + (a - a);  // NaN where a is, and where a is infinite
    }
    float amax = reduce_max(largest), down = 1, extra = 1;
    const bool strange = !(reduce_add(sum) == 0);
    bool nan = false;
    if (strange) {
      amax = 0;
      for (int64_t j = 0; j < m; ++j) {
        nan |= v[j] != v[j];
        amax = __builtin_fabsf(v[j]) > amax ? __builtin_fabsf(v[j]) : amax;
      }
    }
    uint8_t scale = e4m3_block_scale(amax);
    down = bits_float(static_cast<uint32_t>(254 - scale) << 23);
    if (strange && __builtin_isinf(amax))
      scale = 254, down = 0x1p-64f, extra = 0x1p-64f;  // infinity stays so: 448 * 2^127
    const float up = e8m0_decode(scale);
    for (int64_t j = 0; j < (m + 15) / 16 * 16; ++j) {
      const float y = v[j] * down * extra;
      const uint32_t bits = float_bits(y), magnitude = bits & 0x7fffffff;
      const uint32_t capped = magnitude < 0x43e00000 ? magnitude : 0x43e00000;  // 448
      const uint32_t normal = (capped + 0x7ffff + (capped >> 20 & 1)) & 0xfff00000;
      const uint32_t subnormal = float_bits((bits_float(capped) + 0x1p14f) - 0x1p14f);  // multiples of 2^-9
      v[j] = bits_float((bits & 0x80000000) | (capped < 0x3c800000 ? subnormal : normal)) * up;
    }
    for (int64_t j = 0; j < m; j += kLanes)
      store_upto(out + i + j, nan ? set1(__builtin_nanf("")) : load(v + j), m - j);
  }
}

// Steps 3 and 4 for 128 (or fewer) values of one pair; E is bfloat16 only when T is, or when they are quantised.
template <class T, class E>
void activate(const Params& p, bool quantise, float weight, float* a, float* u, int64_t n, E* out) {
  T hidden[kExpertRows];
  const f32x16 limit = set1(p.swiglu_limit), lower = set1(-p.swiglu_limit);
  for (int64_t i = 0; i < n; i += kLanes) {
    T rounded[2 * kLanes];
    store(rounded, load(a + i / kLanes * kTile * kTile));  // step 2 rounds to the dtype of x
    store(rounded + kLanes, load(u + i / kLanes * kTile * kTile));
    f32x16 gate = load(rounded), up = load(rounded + kLanes);
    if (p.swiglu_limit > 0) {
      gate = min(limit, gate);
      up = max(lower, min(limit, up));
    }
    const f32x16 y = gate / (set1(1.0f) + exp(zero() - gate)) * up * set1(weight);
    store(hidden + i, y);
  }
  if (quantise) return fp8_round(hidden, n, out);
  for (int64_t i = 0; i < n; i += kLanes) store_upto(out + i, load(hidden + i), n - i);
}

template <class T, class E, class MakeRows>
void run(const Params& p, const MakeRows& rows_of) {
  const MoeWorkspace space(p.num_tokens, p.hidden_size, p.intermediate_size, p.num_experts, p.topk, p.num_workers);
  char* const memory = aligned(p.workspace);
  using W = decltype(rows_of(nullptr, nullptr, 0, 0, 0, 0));
  const int64_t d = p.hidden_size, width = p.intermediate_size;
  const bool quantise = p.official && p.format != Params::Format::kPlain;
  Plan plan{reinterpret_cast<int32_t*>(memory + space.token), reinterpret_cast<float*>(memory + space.weight),
            reinterpret_cast<Expert*>(memory + space.experts), 0};
  sort_pairs(p, reinterpret_cast<int32_t*>(memory + space.offsets), plan);

  auto* tokens = reinterpret_cast<E*>(memory + space.x);  // 1 quantise x; zero the sums
  parallel_rows(p.num_tokens, d, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* x = static_cast<const T*>(p.x) + t * d;
      E* out = tokens + t * d;
      std::memset(p.out + t * d, 0, static_cast<size_t>(d) * sizeof(float));
      if (quantise) {
        fp8_round(x, d, out);
      } else {
        for (int64_t i = 0; i < d; i += kLanes) store_upto(out + i, load_upto(x + i, d - i), d - i);
      }
    }
  });

  const int64_t dp = round_up(d, 32), wp = round_up(width, 32), up_blocks = (width + kExpertRows - 1) / kExpertRows;
  auto* hidden = reinterpret_cast<E*>(memory + space.hidden);
  auto* packed = reinterpret_cast<E*>(memory + space.packed);
  // Of the experts [first, last), the rows that `index` names, or those of the pairs in turn.
  const auto pack_all = [&](int64_t first, int64_t last, const PlainRows<E>& from, const int32_t* index, int64_t kp) {
    const int64_t base = plan.experts[first].first;
    const int64_t pairs = plan.experts[last - 1].first + plan.experts[last - 1].count - base;
    parallel_rows(last - first, pairs * kp / (last - first), [&](int64_t begin, int64_t end) {
      for (int64_t i = first + begin; i < first + end; ++i) {
        const Expert& e = plan.experts[i];
        for (int64_t t = 0; t < e.count; t += kTile) {
          const int64_t left = e.count - t, pair = e.first + t;
          pack<W>(from, index == nullptr ? nullptr : index + pair, pair - base, left < kTile ? left : kTile,
                  e.count < kTile ? e.count : kTile, kp, packed + (e.tile + t / kTile) * kTile * kp);
        }
      }
    });
  };

  for (int64_t first = 0, last; first < plan.num_experts; first = last) {
    int32_t tiles = 0, count = 0;
    for (last = first; last < plan.num_experts; ++last) {
      Expert& e = plan.experts[last];
      if (last > first && count + e.count > kGroupPairs) break;
      e.tile = tiles;
      tiles += (e.count + static_cast<int32_t>(kTile) - 1) / static_cast<int32_t>(kTile);
      count += e.count;
    }
    const int64_t base = plan.experts[first].first;
    const auto worth = [&](int64_t k, int64_t n) {
      return workers_for((count + 8 * (last - first)) * k * n, p.num_workers);
    };

    pack_all(first, last, PlainRows<E>{tokens, d, d}, plan.token, dp);
    each_item((last - first) * up_blocks, worth(d, 2 * width), [&](int64_t item, int64_t worker) {
      const Expert& e = plan.experts[first + item / up_blocks];
      const int64_t r0 = item % up_blocks * kExpertRows;
      const int64_t n = width - r0 < kExpertRows ? width - r0 : kExpertRows;
      const auto w1 = rows_of(p.w1, p.w1_scale, e.index, p.rows_apart[0], width, d);
      const auto w3 = rows_of(p.w3, p.w3_scale, e.index, p.rows_apart[0], width, d);
      constexpr int64_t kRowTiles = kExpertRows / kTile;
      float* a = reinterpret_cast<float*>(memory + space.sums) + worker * 2 * kBlockTokens * kExpertRows;
      float* u = a + kBlockTokens * kExpertRows;
      const int64_t step = tokens_at_once<E>(e.count, p.block_tokens);
      for (int64_t t0 = 0; t0 < e.count; t0 += step) {
        const int64_t m = e.count - t0 < step ? e.count - t0 : step;
        const E* x = packed + (e.tile * kTile + t0) * dp;
        if (d == 0) std::memset(a, 0, static_cast<size_t>(2 * kBlockTokens * kExpertRows) * sizeof(float));
        for (int64_t r = 0; r < n; r += kBlockRows) {  // 2
          const int64_t rows = n - r < kBlockRows ? n - r : kBlockRows;
          block(w1, r0 + r, rows, x, m, e.columns(), dp, at(a, kRowTiles, 0, r), kRowTiles);
          block(w3, r0 + r, rows, x, m, e.columns(), dp, at(u, kRowTiles, 0, r), kRowTiles);
        }
        for (int64_t t = 0; t < m; ++t) {  // 3, 4
          const int64_t pair = e.first + t0 + t;
          activate<T>(p, quantise, plan.weight[pair], at(a, kRowTiles, t, 0), at(u, kRowTiles, t, 0), n,
                      hidden + (pair - base) * width + r0);
        }
      }
    });

    pack_all(first, last, PlainRows<E>{hidden, width, width}, nullptr, wp);
    const int64_t row_blocks = (d + kBlockRows - 1) / kBlockRows;
    const int64_t item_rows = blocks_per_item(p.num_tokens, row_blocks, p.num_workers) * kBlockRows;
    each_item((d + item_rows - 1) / item_rows, worth(width, d), [&](int64_t item, int64_t worker) {
      const int64_t begin = item * item_rows, end = d - begin < item_rows ? d : begin + item_rows;
      float* c = reinterpret_cast<float*>(memory + space.sums) + worker * 2 * kBlockTokens * kExpertRows;
      if (width == 0) std::memset(c, 0, static_cast<size_t>(kBlockTokens * kBlockRows) * sizeof(float));
      for (int64_t i = first; i < last; ++i) {
        const Expert& e = plan.experts[i];
        const auto w2 = rows_of(p.w2, p.w2_scale, e.index, p.rows_apart[1], d, width);
        const int64_t step = tokens_at_once<E>(e.count, p.block_tokens);
        for (int64_t t0 = 0; t0 < e.count; t0 += step) {
          const int64_t m = e.count - t0 < step ? e.count - t0 : step;
          const E* h = packed + (e.tile * kTile + t0) * wp;
          for (int64_t r0 = begin; r0 < end; r0 += kBlockRows) {
            const int64_t rows = end - r0 < kBlockRows ? end - r0 : kBlockRows;
            block(w2, r0, rows, h, m, e.columns(), wp, c, kBlockRows / kTile);  // 5
            for (int64_t t = 0; t < m; ++t) {                                   // 6
              const int64_t later = e.first + t0 + (t + kTokensAhead < m ? t + kTokensAhead : m - 1);
              const float* next = p.out + plan.token[later] * d + r0;
              for (int64_t r = 0; r < rows; r += kLanes) __builtin_prefetch(next + r, 1);
              float* out = p.out + plan.token[e.first + t0 + t] * d + r0;
              for (int64_t r = 0; r < rows; r += kLanes) {
                T y[kLanes];
                store(y, load(at(c, kBlockRows / kTile, t, r)));
                store_upto(out + r, load_upto(out + r, rows - r) + load(y), rows - r);
              }
            }
          }
        }
      }
    });
  }
}

template <class T>
void by_format(const Params& p) {
  using Format = Params::Format;
  constexpr bool kNarrow = sizeof(T) == 2;
  if (p.format == Format::kFp4) {
    with_element(kNarrow || p.official, [&](auto e) {
      run<T, decltype(e)>(p, [](const void* w, const uint8_t* scale, int64_t i, int64_t apart, int64_t n, int64_t k) {
        return E2m1Rows{static_cast<const uint8_t*>(w) + i * apart * k / 2, scale + i * n * k / 32, k};
      });
    });
  } else if (p.format == Format::kFp8) {
    with_element(kNarrow || p.official, [&](auto e) {
      run<T, decltype(e)>(p, [](const void* w, const uint8_t* scale, int64_t i, int64_t apart, int64_t n, int64_t k) {
        const int64_t scales = (n + 127) / 128 * ((k + 127) / 128);
        return E4m3Rows{static_cast<const uint8_t*>(w) + i * apart * k, scale + i * scales, k, 7};
      });
    });
  } else if (p.weight_dtype == Dtype::kBfloat16) {
    with_element(kNarrow, [&](auto e) {
      run<T, decltype(e)>(p, [](const void* w, const uint8_t*, int64_t i, int64_t apart, int64_t, int64_t k) {
        return PlainRows<bf16>{static_cast<const bf16*>(w) + i * apart * k, k, k};
      });
    });
  } else {
    run<T, float>(p, [](const void* w, const uint8_t*, int64_t i, int64_t apart, int64_t, int64_t k) {
      return PlainRows<float>{static_cast<const float*>(w) + i * apart * k, k, k};
    });
  }
}

}  // namespace

void moe_experts(const MoeExpertsParams& p) { p.dtype == Dtype::kFloat32 ? by_format<float>(p) : by_format<bf16>(p); }

}  // namespace v4npu::cpu::V4NPU_ISA
