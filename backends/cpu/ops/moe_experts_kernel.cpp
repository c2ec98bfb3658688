// moe_experts on the CPU. The (token, expert) pairs are sorted by expert; experts are taken in groups of about
// kGroupPairs pairs, so that the memory does not grow with the batch. In a group
//   pack_pairs    tiles of 16 rows of x of one expert; step 1 was done once for each token
//   up            item = (expert, 128 rows of w1 and w3): steps 2, 3, 4 while the sums are in cache
//   pack_pairs    what up has made
//   down          item = some rows of w2 of every expert in turn: steps 5, 6 into columns of the sums that are its own
// and behind the last group
//   add_shared    step 7
// So each weight is read once per call (per block_tokens of the plan), and the sum over experts needs no atomics.
#include "v4npu/ops/moe_experts.h"

#include "gemm.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

using Params = MoeExpertsParams;

constexpr int64_t kTokensAhead = 8;  // whose sums are asked for: they lie anywhere
static_assert(kManyRows <= 2 * kExpertRows, "down has the memory of the sums of w1 and w3");

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
      scale = 254, down = 0x1p-64f, extra = 0x1p-63f;  // infinity stays so: 448 * 2^127
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

// The experts [first, last), whose pairs are `count` from `base` on.
struct Group {
  int64_t first, last, base, count;

  int64_t size() const { return last - first; }
};

// One call: activations of T are multiplied as E with rows of W, which rows_of makes of an expert's weights.
template <class T, class E, class W, class RowsOf>
struct Call {
  const Params& p;
  const RowsOf& rows_of;
  const MoeWorkspace space;
  char* const memory;
  const int64_t d, width, workers;
  const bool quantise;
  Plan plan;
  E *const tokens, *const hidden, *const packed;
  float* const totals;  // [num_tokens, d]

  Call(const Params& params, const RowsOf& rows)
      : p(params),
        rows_of(rows),
        space(p),
        memory(aligned(p.workspace)),
        d(p.hidden_size),
        width(p.intermediate_size),
        workers(p.num_workers),
        quantise(p.official && p.format != Params::Format::kPlain),
        plan{part<int32_t>(space.token), part<float>(space.weight), part<Expert>(space.experts), 0},
        tokens(part<E>(space.x)),
        hidden(part<E>(space.hidden)),
        packed(part<E>(space.packed)),
        totals(p.shared == nullptr ? static_cast<float*>(p.out) : part<float>(space.totals)) {}

  template <class Value>
  Value* part(int64_t offset) const {
    return reinterpret_cast<Value*>(memory + offset);
  }
  float* sums_of(int64_t worker) const { return part<float>(space.sums) + worker * 2 * kBlockTokens * kExpertRows; }
  // Threads for products of a group with n rows of k values.
  int64_t useful_workers(const Group& g, int64_t k, int64_t n) const {
    return workers_for((g.count + 8 * g.size()) * k * n, workers);
  }

  void run() {
    sort_pairs(p, part<int32_t>(space.offsets), plan);
    load_tokens();
    for (int64_t first = 0; first < plan.num_experts;) {
      const Group group = group_from(first);
      pack_pairs(group, PlainRows<E>{tokens, d, d}, plan.token, round_up(d, 32));
      up(group);
      pack_pairs(group, PlainRows<E>{hidden, width, width}, nullptr, round_up(width, 32));
      down(group);
      first = group.last;
    }
    if (p.shared != nullptr) add_shared();
  }

  // 1 quantise x; zero the sums
  void load_tokens() const {
    parallel_rows(p.num_tokens, d, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T* x = static_cast<const T*>(p.x) + t * d;
        E* out = tokens + t * d;
        std::memset(totals + t * d, 0, static_cast<size_t>(d) * sizeof(float));
        if (quantise) {
          fp8_round(x, d, out);
        } else {
          for (int64_t i = 0; i < d; i += kLanes) store_upto(out + i, load_upto(x + i, d - i), d - i);
        }
      }
    });
  }

  // As many experts as kGroupPairs pairs have, one at least; says where the tiles of each are packed.
  Group group_from(int64_t first) const {
    Group g{first, first, plan.experts[first].first, 0};
    for (int32_t tiles = 0; g.last < plan.num_experts; ++g.last) {
      Expert& e = plan.experts[g.last];
      if (g.last > first && g.count + e.count > kGroupPairs) break;
      e.tile = tiles;
      tiles += (e.count + static_cast<int32_t>(kTile) - 1) / static_cast<int32_t>(kTile);
      g.count += e.count;
    }
    return g;
  }

  // The rows that `index` names for each pair, or those of the group's pairs in turn.
  void pack_pairs(const Group& g, const PlainRows<E>& from, const int32_t* index, int64_t kp) const {
    parallel_rows(g.size(), g.count * kp / g.size(), [&](int64_t begin, int64_t end) {
      for (int64_t i = g.first + begin; i < g.first + end; ++i) {
        const Expert& e = plan.experts[i];
        const int64_t step = tokens_at_once<E>(e.count, p.block_tokens);
        for (int64_t t = 0; t < e.count; t += kTile) {
          const int64_t left = e.count - t, pair = e.first + t;
          pack<W>(from, index == nullptr ? nullptr : index + pair, pair - g.base, left < kTile ? left : kTile,
                  e.columns(), kp, Packed<E>(packed + e.tile * kTile * kp, e.count, step, t, kp));
        }
      }
    });
  }

  void up(const Group& g) const {
    const int64_t blocks = (width + kExpertRows - 1) / kExpertRows;
    each_item(g.size() * blocks, useful_workers(g, d, 2 * width), [&](int64_t item, int64_t worker) {
      up_block(g, plan.experts[g.first + item / blocks], item % blocks * kExpertRows, worker);
    });
  }

  // Steps 2 to 4 for all pairs of an expert and 128 rows of w1 and w3, from r0 on.
  void up_block(const Group& g, const Expert& e, int64_t r0, int64_t worker) const {
    constexpr int64_t kRowTiles = kExpertRows / kTile;
    const int64_t n = width - r0 < kExpertRows ? width - r0 : kExpertRows, dp = round_up(d, 32);
    const W w1 = rows_of(p.w1, p.w1_scale, e.index, p.rows_apart[0], width, d);
    const W w3 = rows_of(p.w3, p.w3_scale, e.index, p.rows_apart[0], width, d);
    float *a = sums_of(worker), *u = a + kBlockTokens * kExpertRows;
    const int64_t step = tokens_at_once<E>(e.count, p.block_tokens), together = rows_at_once<E>(e.count);
    for (int64_t t0 = 0; t0 < e.count; t0 += step) {
      const int64_t m = e.count - t0 < step ? e.count - t0 : step;
      const E* x = packed + (e.tile * kTile + t0) * dp;
      if (d == 0) std::memset(a, 0, static_cast<size_t>(2 * kBlockTokens * kExpertRows) * sizeof(float));
      for (int64_t r = 0; r < n; r += together) {  // 2
        const int64_t rows = n - r < together ? n - r : together;
        block(w1, r0 + r, rows, x, m, e.columns(), dp, at(a, kRowTiles, 0, r), kRowTiles);
        block(w3, r0 + r, rows, x, m, e.columns(), dp, at(u, kRowTiles, 0, r), kRowTiles);
      }
      for (int64_t t = 0; t < m; ++t) {  // 3, 4
        const int64_t pair = e.first + t0 + t;
        activate<T>(p, quantise, plan.weight[pair], at(a, kRowTiles, t, 0), at(u, kRowTiles, t, 0), n,
                    hidden + (pair - g.base) * width + r0);
      }
    }
  }

  void down(const Group& g) const {
    const int64_t row_blocks = (d + kBlockRows - 1) / kBlockRows;
    const int64_t item_rows = rows_per_item<E>(p.num_tokens, row_blocks, workers);
    each_item((d + item_rows - 1) / item_rows, useful_workers(g, width, d), [&](int64_t item, int64_t worker) {
      const int64_t begin = item * item_rows, end = d - begin < item_rows ? d : begin + item_rows;
      float* c = sums_of(worker);
      if (width == 0) std::memset(c, 0, static_cast<size_t>(kBlockTokens * kManyRows) * sizeof(float));
      for (int64_t i = g.first; i < g.last; ++i) down_rows(plan.experts[i], begin, end, c);
    });
  }

  // Steps 5 and 6 for all pairs of an expert and the rows [begin, end) of w2.
  void down_rows(const Expert& e, int64_t begin, int64_t end, float* c) const {
    const int64_t together = rows_at_once<E>(e.count), row_tiles = together / kTile;
    const int64_t wp = round_up(width, 32), step = tokens_at_once<E>(e.count, p.block_tokens);
    const W w2 = rows_of(p.w2, p.w2_scale, e.index, p.rows_apart[1], d, width);
    for (int64_t t0 = 0; t0 < e.count; t0 += step) {
      const int64_t m = e.count - t0 < step ? e.count - t0 : step;
      const E* h = packed + (e.tile * kTile + t0) * wp;
      for (int64_t r0 = begin; r0 < end; r0 += together) {
        const int64_t rows = end - r0 < together ? end - r0 : together;
        block(w2, r0, rows, h, m, e.columns(), wp, c, row_tiles);  // 5
        for (int64_t t = 0; t < m; ++t) {                          // 6
          const int64_t later = e.first + t0 + (t + kTokensAhead < m ? t + kTokensAhead : m - 1);
          const float* next = totals + plan.token[later] * d + r0;
          for (int64_t r = 0; r < rows; r += kLanes) __builtin_prefetch(next + r, 1);
          float* out = totals + plan.token[e.first + t0 + t] * d + r0;
          for (int64_t r = 0; r < rows; r += kLanes) {
            T y[kLanes];
            store(y, load(at(c, row_tiles, t, r)));
            store_upto(out + r, load_upto(out + r, rows - r) + load(y), rows - r);
          }
        }
      }
    }
  }

  // Step 7.
  void add_shared() const {
    parallel_rows(p.num_tokens, d, [&](int64_t begin, int64_t end) {
      const T* shared = static_cast<const T*>(p.shared);
      T* out = static_cast<T*>(p.out);
      for (int64_t i = begin * d; i < end * d; i += kLanes) {
        const int64_t n = end * d - i;
        store_upto(out + i, load_upto(totals + i, n) + load_upto(shared + i, n), n);
      }
    });
  }
};

template <class T, class E, class RowsOf>
void run(const Params& p, const RowsOf& rows_of) {
  using W = decltype(rows_of(nullptr, nullptr, 0, 0, 0, 0));
  Call<T, E, W, RowsOf>(p, rows_of).run();
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
