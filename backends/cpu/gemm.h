// Products of activations with weights of any stored format, for kernels: out[t,n] = sum_k x[t,k] w[n,k].
//
// Rows of either operand are a struct with decode(); activations are decoded once and packed in tiles of 16 tokens,
// weights are decoded into a buffer in L1 at the moment of use, once per block of tokens, at most as many as the plan
// says. Work items are (block of tokens, 32 weight rows or more), taken by whichever thread is free.
//
// Order of a sum: it depends on k alone, so that one token gets the same bits alone and in any batch.
//   float32   16 lanes, lane i sums k = i mod 16 of 1024 values; lanes are halved (reduce_add); these in order of k
//   bfloat16  with AMX 32 values at a time, in order of k, even and odd ones apart (gemm_amx.h); on AVX-512 16 lanes,
//             of which lane i sums k = 2i and 2i + 1 mod 32 of 2048 values, then as float32 (gemm_pairs.h);
//             elsewhere not at all
// Products go to bfloat16 where both operands are exact in it, else to float32.
#pragma once

#include "gemm_rows.h"
#include "parallel.h"
#include "v4npu/dtype.h"

namespace v4npu::cpu::V4NPU_ISA {
namespace {

// Where element (token, row) of a block lies: tiles of 16 x 16, `row_tiles` of them side by side.
V4NPU_INLINE float* at(float* c, int64_t row_tiles, int64_t token, int64_t row) {
  return c + (token / kTile * row_tiles + row / kTile) * (kTile * kTile) + token % kTile * kTile + row % kTile;
}

// Where a tile of tokens is packed: in a block of so many, which block() takes at once.
template <class E>
struct Packed {
  E* block;
  int64_t tile, tiles;

  // Of tokens packed from `all` on, `step` in each block, the tile that token t begins.
  V4NPU_MEMBER Packed(E* all, int64_t tokens, int64_t step, int64_t t, int64_t kp)
      : block(all + t / step * step * kp), tile(t % step / kTile) {
    const int64_t left = tokens - t / step * step;
    tiles = ((left < step ? left : step) + kTile - 1) / kTile;
  }
};

// c(token + t, row + r) of sum[t * ROWS + r], from the tokens FROM on.
template <class Order, int ROWS, int TOKENS, int FROM = 0>
V4NPU_INLINE void put_sums(const f32x16 (&sum)[ROWS * TOKENS], float* c, int64_t row_tiles, int64_t token, int64_t row,
                           bool first) {
  constexpr int kAtOnce = kLanes / ROWS, kSome = TOKENS - FROM < kAtOnce ? TOKENS - FROM : kAtOnce;
  alignas(64) float totals[kLanes];
  f32x16 some[ROWS * kSome];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS * kSome; ++i) some[i] = sum[FROM * ROWS + i];
  Order::reduce_each(some, totals);
#pragma GCC unroll 16
  for (int t = 0; t < kSome; ++t) {
    float* out = at(c, row_tiles, token + FROM + t, row);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) out[r] = first ? totals[t * ROWS + r] : out[r] + totals[t * ROWS + r];
  }
  if constexpr (FROM + kSome < TOKENS)
    put_sums<Order, ROWS, TOKENS, FROM + kSome>(sum, c, row_tiles, token, row, first);
}

// ---- float32

// A chunk of n values lies in memory by the parts of its 16 lanes: the first part of every 16, then the second of every
// 16, so that dots() reads a part from end to end.
V4NPU_INLINE int64_t part_at(int64_t n, int64_t i, int part) {
  return part * (n / kParts) + static_cast<int64_t>(static_cast<uint64_t>(i) / kParts);
}
V4NPU_INLINE void store_parts(float* chunk, int64_t n, int64_t i, f32x16 v) {
  f32part parts[kParts];
  split_parts(v, parts);
#pragma GCC unroll 2
  for (int part = 0; part < kParts; ++part) store_part(chunk + part_at(n, i, part), parts[part]);
}

constexpr int64_t kFewTokens = 4;  // a call of no more packs its tokens in order, not by parts

// As many sums as registers hold, next to the operands.
#if defined(__AVX512F__)
constexpr int kRowsAtOnce = 4, kTokensAtOnce = 6;
#elif defined(__AVX2__)
constexpr int kRowsAtOnce = 4, kTokensAtOnce = 3;
#else
constexpr int kRowsAtOnce = 2, kTokensAtOnce = 2;
#endif

// Rows of `w` kChunk apart, tokens of `x` `apart`, n a multiple of 16. A function of its own, so that it has the
// registers to itself.
template <class Order, int kTokens>
__attribute__((noinline)) void dots(const float* w, const float* x, int64_t apart, int64_t n, float* c,
                                    int64_t row_tiles, int64_t token, int64_t row, bool first) {
  f32part sums[kRowsAtOnce * kTokens][kParts];
#pragma GCC unroll 2
  for (int part = 0; part < kParts; ++part) {
    const int64_t begin = part_at(n, 0, part), end = begin + n / kParts;
    f32part sum[kRowsAtOnce][kTokens];
#pragma GCC unroll 8
    for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) sum[r][t] = zero_part();
    }
    for (int64_t i = begin; i < end; i += kLanes / kParts) {
      f32part b[kTokens];
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) b[t] = load_part(x + t * apart + i);
#pragma GCC unroll 8
      for (int r = 0; r < kRowsAtOnce; ++r) {
        const f32part a = load_part(w + r * kChunk + i);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) sum[r][t] = fma(a, b[t], sum[r][t]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) sums[t * kRowsAtOnce + r][part] = sum[r][t];
    }
  }
  f32x16 joined[kRowsAtOnce * kTokens];
#pragma GCC unroll 24
  for (int i = 0; i < kRowsAtOnce * kTokens; ++i) joined[i] = join_parts(sums[i]);
  put_sums<Order, kRowsAtOnce, kTokens>(joined, c, row_tiles, token, row, first);
}

constexpr int64_t kPrefetch = 4096;       // bytes of what has to be decoded
constexpr int64_t kPlainPrefetch = 2048;  // of what memory alone delays

// So few tokens that memory is the limit: rows are read from end to end, and their values go from the registers where
// they are decoded into the sums. Tokens are arranged as rows are. Bits as from dots().
template <int kRows, int kTokens, class W>
V4NPU_INLINE void few_dots(const W& w, int64_t row0, const float* x, int64_t kp, float* c, int64_t row_tiles,
                           int64_t r) {
  // Of one row what follows; of several the same of rows to come.
  constexpr int64_t kLeast = W::kSegmentBytes > kSegment ? kPlainPrefetch : kPrefetch;
  constexpr int kLocality = kRegisters >= 32 && W::kSegmentBytes >= kSegment ? 2 : 3;  // 2: the second cache
  const int64_t all_rows = kRows * w.k * W::kSegmentBytes / kSegment;
  const int64_t ahead = kRows == 1 || all_rows == 0 ? kLeast : (kLeast + all_rows - 1) / all_rows * all_rows;
  for (int64_t k0 = 0; k0 < kp; k0 += kChunk) {
    const int64_t end = kp - k0 < kChunk ? kp : k0 + kChunk;
    f32x16 sum[kRows * kTokens];
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kTokens; ++i) sum[i] = zero();
    const auto add = [&](int i, f32x16 a, int64_t k, float unit) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        f32x16 b = load(x + t * kp + k);
        if (unit != 1) b = b * set1(1 / unit);
        sum[t * kRows + i] = fma(a, b, sum[t * kRows + i]);
      }
    };
    const auto add_group = [&](int i, const f32x32& a, int64_t k) __attribute__((always_inline)) {
      add(i, a.half[0], k, 1);
      add(i, a.half[1], k + kLanes, 1);
    };
    for (int64_t j = k0; j < end; j += kSegment) {
      const bool whole = w.k - j >= kSegment;
      typename W::Segment rows[kRows];
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        rows[i] = w.segment(row0 + r + i, j);
        for (int64_t line = 0; line < W::kSegmentBytes; line += 64)
          __builtin_prefetch(reinterpret_cast<const char*>(rows[i].p) + ahead + line, 0, kLocality);
      }
      if (W::kAlwaysDirect && whole) {
#pragma GCC unroll 4
        for (int64_t group = 0; group < kSegment / 32; ++group) {
#pragma GCC unroll 4
          for (int i = 0; i < kRows; ++i) add_group(i, rows[i].at(group), j + 32 * group);
        }
        continue;
      }
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        if (whole && w.direct(row0 + r + i, j)) {
#pragma GCC unroll 4
          for (int64_t group = 0; group < kSegment / 32; ++group) add_group(i, rows[i].at(group), j + 32 * group);
        } else {
          alignas(64) float values[kSegment];
          w.decode(row0 + r + i, j, values, 32);
          for (int64_t m = 0; m < end - j && m < kSegment; m += kLanes)
            add(i, W::Order::arrange(load(values + m)), j + m, W::kUnit);
        }
      }
    }
    put_sums<typename W::Order, kRows, kTokens>(sum, c, row_tiles, 0, r, k0 == 0);
  }
}

// What takes long to decode leaves memory time for several rows at once, and not one chain of sums.
template <int kTokens, class W>
V4NPU_INLINE void few_rows(const W& w, int64_t row0, int64_t rows, const float* x, int64_t kp, float* c,
                           int64_t row_tiles) {
  constexpr bool kDecoded = W::kSegmentBytes <= kSegment;
  constexpr int kRows = kRegisters >= 32 ? (kDecoded ? 4 : 2) : kDecoded && kTokens <= 2 ? 2 : 1;
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) few_dots<kRows, kTokens>(w, row0, x, kp, c, row_tiles, r);
  if constexpr (kRows > 1) {
    for (; r < rows; ++r) few_dots<1, kTokens>(w, row0, x, kp, c, row_tiles, r);
  }
}

constexpr int64_t kMostScaled = 65536;  // values

// FP8 rows share their scales, which are powers of two: (s w) x = w (s x), wherever s x is exact.
template <int kTokens>
bool scale_tokens(const E4m3Rows& w, int64_t row0, int64_t rows, const float* x, int64_t kp, float* out) {
  if (kTokens * kp > kMostScaled || !w.share_scales(row0, rows)) return false;
  uint32_t inexact = 0;
  for (int64_t k0 = 0; k0 < kp; k0 += kSegment) {
    const uint8_t scale = w.scale_of(row0, k0);
    if (scale < 27 || scale >= 240) return false;  // s w may be subnormal, or overflows
    const float factor = e8m0_decode(scale);
    const f32x16 up = set1(factor), down = set1(1 / factor), unit = set1(kE4m3Unit), whole = set1(1 / kE4m3Unit);
    const int64_t end = k0 + kSegment < kp ? k0 + kSegment : kp;
    for (int64_t t = 0; t < kTokens * kp; t += kp) {
      for (int64_t i = t + k0; i < t + end; i += kLanes) {
        const f32x16 plain = load(x + i), scaled = plain * up * unit;
        store(out + i, scaled);
        inexact |= above(keep_bits(scaled * whole * down - plain, 0x7fffffff), 0);
      }
    }
  }
  return inexact == 0;
}

// False if nothing was done.
template <int kTokens, class W>
bool few(const W& w, int64_t row0, int64_t rows, const float* x, int64_t kp, float* c, int64_t row_tiles) {
  few_rows<kTokens>(w, row0, rows, x, kp, c, row_tiles);
  return true;
}
template <int kTokens>
bool few(const E4m3Rows& w, int64_t row0, int64_t rows, const float* x, int64_t kp, float* c, int64_t row_tiles) {
  alignas(64) float scaled[kMostScaled];
  if (!scale_tokens<kTokens>(w, row0, rows, x, kp, scaled)) return false;
  few_rows<kTokens>(E4m3Units{w.codes, w.k}, row0, rows, scaled, kp, c, row_tiles);
  return true;
}

// What the products of the rows before it leave memory time for; into the second cache, or the first (kLocality 3).
template <int kLocality = 2, class W>
V4NPU_INLINE void fetch_segment(const W& w, int64_t row, int64_t k0) {
  const char* p = static_cast<const char*>(w.begin(row)) + k0 / kSegment * W::kSegmentBytes;
  for (int64_t line = 0; line < W::kSegmentBytes; line += 64) __builtin_prefetch(p + line, 0, kLocality);
}

// c(t, r) for weight rows row0 .. row0 + rows (at most rows_at_once) and packed tokens x, in tiles that have room for
// `columns`.
template <class W>
void block(const W& w, int64_t row0, int64_t rows, const float* x, int64_t tokens, int64_t columns, int64_t kp,
           float* c, int64_t row_tiles) {
  const bool in_order = columns <= kFewTokens;
  bool done = false;
  switch (in_order ? tokens : 0) {
    case 1: done = few<1>(w, row0, rows, x, kp, c, row_tiles); break;
    case 2: done = few<2>(w, row0, rows, x, kp, c, row_tiles); break;
    case 3: done = few<3>(w, row0, rows, x, kp, c, row_tiles); break;
    case 4: done = few<4>(w, row0, rows, x, kp, c, row_tiles); break;
  }
  if (done) return;
  using Order = typename W::Order;
  alignas(64) float by_parts[kFewTokens * kChunk];
  alignas(64) float buffer[kRowsAtOnce * kChunk];
  for (int64_t k0 = 0; k0 < kp; k0 += kChunk) {
    const int64_t n = kp - k0 < kChunk ? kp - k0 : kChunk, apart = in_order ? kChunk : kp;
    const float* p = x + k0;
    if (in_order) {
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t i = 0; i < n; i += kLanes) store_parts(by_parts + t * kChunk, n, i, load(p + t * kp + i));
      }
      p = by_parts;
    }
    for (int64_t r = 0; r < rows; r += kRowsAtOnce) {
      for (int i = 0; i < kRowsAtOnce; ++i) {
        const int64_t row = r + i < rows ? r + i : rows - 1;  // a row too many is the last one again
        for (int64_t j = 0; j < n; j += kSegment) {
          fetch_segment(w, row0 + row + kRowsAtOnce, k0 + j);
          float* const to = buffer + i * kChunk + part_at(n, j, 0);
          w.arranged(row0 + row, k0 + j,
                     [&](int64_t m, f32x16 v) __attribute__((always_inline)) { store_parts(to, n, m, v); });
        }
      }
      int64_t t = 0;
      // Of four tokens left, two and two: one alone takes as long as two.
      for (; t + kTokensAtOnce <= tokens && (kTokensAtOnce != 3 || tokens - t != 4); t += kTokensAtOnce)
        dots<Order, kTokensAtOnce>(buffer, p + t * apart, apart, n, c, row_tiles, t, r, k0 == 0);
      if constexpr (kTokensAtOnce > 4) {
        for (; t + 4 <= tokens; t += 4) dots<Order, 4>(buffer, p + t * apart, apart, n, c, row_tiles, t, r, k0 == 0);
      }
      for (; t + 2 <= tokens; t += 2) dots<Order, 2>(buffer, p + t * apart, apart, n, c, row_tiles, t, r, k0 == 0);
      for (; t < tokens; ++t) dots<Order, 1>(buffer, p + t * apart, apart, n, c, row_tiles, t, r, k0 == 0);
    }
  }
}

// Tokens `index[0..m)` (or first, first + 1, ... without an index) into one tile, arranged as the rows of W.
template <class W, class X>
void pack(const X& x, const int32_t* index, int64_t first, int64_t m, int64_t columns, int64_t kp,
          Packed<float> to_tile) {
  const bool in_order = columns <= kFewTokens;
  float* const out = to_tile.block + to_tile.tile * kTile * kp;
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t k0 = 0; k0 < x.k; k0 += kSegment) {
      const int64_t chunk = k0 / kChunk * kChunk, n = kp - chunk < kChunk ? kp - chunk : kChunk;
      float* const to = out + t * kp + (in_order ? k0 : chunk + part_at(n, k0 - chunk, 0));
      x.values(index != nullptr ? index[t] : first + t, k0, [&](int64_t i, f32x16 v) __attribute__((always_inline)) {
        const f32x16 arranged = W::Order::arrange(v);
        in_order ? store(to + i, arranged) : store_parts(to, n, i, arranged);
      });
    }
  }
}

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA

#ifdef V4NPU_HAS_AMX
#include "gemm_amx.h"
#elif defined(__AVX512BF16__)
#include "gemm_pairs.h"
#endif

namespace v4npu::cpu::V4NPU_ISA {
namespace {

// Weight rows that block() takes, on AMX more than are decoded at a time: of few tokens since to configure tiles halts
// everything, of many since what of their values lies in the second cache meets all of these rows.
#ifdef V4NPU_HAS_AMX
constexpr bool kConfigures = true;
#else
constexpr bool kConfigures = false;
#endif
template <class E>
V4NPU_INLINE int64_t rows_at_once(int64_t tokens) {
  if (!kConfigures || sizeof(E) != 2) return kBlockRows;
  return tokens <= kTile ? kFewRows : tokens <= kSomeTokens ? kSomeRows : kManyRows;
}

// f(E()) with the type to compute in.
template <class F>
V4NPU_INLINE void with_element(bool exact_in_bf16, const F& f) {
  if constexpr (has_bf16_dot) {
    if (exact_in_bf16) return f(bf16());
  }
  f(float());
}

V4NPU_INLINE char* aligned(void* p) { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + 63) / 64 * 64); }

// Threads worth waking for so many multiply-adds.
V4NPU_INLINE int64_t workers_for(int64_t work, int64_t workers) {
  const int64_t useful = 1 + work / (1 << 21);
  return useful < workers ? useful : workers;
}

// What the plan says for sums of this type, in equal blocks of whole AMX tiles: a few tokens left over would have all
// weights decoded for them again.
template <class E>
V4NPU_INLINE int64_t tokens_at_once(int64_t tokens, const int64_t (&block_tokens)[2]) {
  const int64_t most = block_tokens[sizeof(E) == 4 ? 0 : 1], blocks = (tokens + most - 1) / most;
  return blocks > 1 ? round_up((tokens + blocks - 1) / blocks, 2 * kTile) : most;
}

// Weight rows of a work item, of so many blocks of them in all. Memory is the limit of few tokens, and likes to be read
// from end to end; of many block() says how many it likes.
template <class E>
V4NPU_INLINE int64_t rows_per_item(int64_t tokens, int64_t row_blocks, int64_t workers) {
  const int64_t most = (tokens <= kTile ? kFewRows : rows_at_once<E>(tokens)) / kBlockRows;
  const int64_t share = row_blocks / (2 * workers);
  return kBlockRows * (share < 1 ? 1 : share < most ? share : most);
}

// The sums of a block: m tokens by n rows. A function of its own, so that its loops have the registers to themselves.
template <class Out>
__attribute__((noinline)) void store_sums(float* c, int64_t row_tiles, int64_t m, int64_t n, Out* out, int64_t ld) {
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t r = 0; r < n; r += kLanes) store_upto(out + t * ld + r, load(at(c, row_tiles, t, r)), n - r);
  }
}

// out[t * ld + n] for the groups [begin, end): of each, x_of(group) times its own weight rows n = group * rows and on.
template <class E, class XOf, class W, class Out, class Params>
void product(const XOf& x_of, int64_t begin, int64_t end, const W& w, int64_t rows, Out* out, int64_t ld,
             const Params& p) {
  const int64_t tokens = p.num_tokens, kp = round_up(p.k, 32), tiles = (tokens + kTile - 1) / kTile;
  if (tokens == 0 || rows == 0 || begin == end) return;
  auto* packed = reinterpret_cast<E*>(aligned(p.workspace));
  auto* sums = reinterpret_cast<float*>(aligned(p.workspace) + (end - begin) * packed_bytes(tokens, kp));
  const int64_t columns = tokens < kTile ? tokens : kTile;
  const int64_t step = tokens_at_once<E>(tokens, p.block_tokens), row_blocks = (rows + kBlockRows - 1) / kBlockRows;
  parallel_rows((end - begin) * tiles, kTile * kp, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t group = i / tiles, t = i % tiles * kTile, left = tokens - t;
      pack<W>(x_of(begin + group), nullptr, t, left < kTile ? left : kTile, columns, kp,
              Packed<E>(packed + group * tiles * kTile * kp, tokens, step, t, kp));
    }
  });

  const int64_t steps = (tokens + step - 1) / step;
  const int64_t item_rows = rows_per_item<E>(tokens, (end - begin) * steps * row_blocks, p.num_workers);
  const int64_t row_items = (rows + item_rows - 1) / item_rows, items = steps * row_items;
  const int64_t workers = workers_for((tokens + 8) * (end - begin) * rows * kp, p.num_workers);
  const int64_t together = rows_at_once<E>(tokens);
  each_item((end - begin) * items, workers, [&](int64_t i, int64_t worker) {
    const int64_t group = i / items, t0 = i % items / row_items * step, first = i % row_items * item_rows;
    const int64_t m = tokens - t0 < step ? tokens - t0 : step;
    const int64_t last = rows - first < item_rows ? rows : first + item_rows;
    const E* x = packed + (group * tiles * kTile + t0) * kp;
    float* c = sums + worker * sums_of_worker(tokens);
    if (kp == 0) std::memset(c, 0, static_cast<size_t>(sums_of_worker(tokens)) * sizeof(float));
    for (int64_t r0 = first; r0 < last; r0 += together) {
      const int64_t row = (begin + group) * rows + r0, n = last - r0 < together ? last - r0 : together;
      block(w, row, n, x, m, columns, kp, c, together / kTile);
      store_sums(c, together / kTile, m, n, out + t0 * ld + row, ld);
    }
  });
}
// Of one group.
template <class E, class X, class W, class Out, class Params>
void product(const X& x, const W& w, Out* out, const Params& p) {
  product<E>([&](int64_t) { return x; }, 0, 1, w, p.num_rows, out, p.num_rows, p);
}

// fp8_linear and fp4_linear: x quantised, or plain and taken in the dtype of out.
template <class W, class Params>
void quantised_linear(const Params& p, const W& w) {
  const auto run = [&](auto e, const auto& x) {
    using E = decltype(e);
    if (p.out_dtype == Dtype::kFloat32) {
      product<E>(x, w, static_cast<float*>(p.out), p);
    } else {
      product<E>(x, w, static_cast<bf16*>(p.out), p);
    }
  };
  const bool narrow_out = p.out_dtype == Dtype::kBfloat16;
  if (p.x_scale != nullptr) {
    with_element(true, [&](auto e) { run(e, E4m3Rows{static_cast<const uint8_t*>(p.x), p.x_scale, p.k, 0}); });
  } else if (p.x_dtype == Dtype::kBfloat16) {
    with_element(true, [&](auto e) { run(e, PlainRows<bf16>{static_cast<const bf16*>(p.x), p.k, p.k}); });
  } else if (narrow_out) {
    with_element(true, [&](auto e) { run(e, PlainRows<float, true>{static_cast<const float*>(p.x), p.k, p.k}); });
  } else {
    run(float(), PlainRows<float>{static_cast<const float*>(p.x), p.k, p.k});
  }
}

}  // namespace
}  // namespace v4npu::cpu::V4NPU_ISA
