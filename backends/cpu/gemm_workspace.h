// How much memory gemm.h needs: launchers reserve it, kernels divide it.
#pragma once

#include <cstdint>

#include "v4npu/arithmetic.h"
#include "v4npu/ops/moe_experts.h"

namespace v4npu::cpu {

constexpr int64_t kTile = 16;          // tokens, or weight rows, of a tile
constexpr int64_t kBlockTokens = 480;  // at most, per work item: a multiple of 6 and of 32
constexpr int64_t kBlockRows = 32;     // weight rows that are decoded at a time
constexpr int64_t kManyRows = 256;     // at most, per work item of more than a tile of tokens
constexpr int64_t kDecoded = 512;      // values of kBlockRows rows that AMX has decoded in the first cache
constexpr int64_t kSomeTokens = 128;   // with whose sums by kSomeRows half as many decoded values share it
constexpr int64_t kSomeRows = 64;
constexpr int64_t kExpertRows = 128;   // of an expert: one FP8 scale of its intermediate
constexpr int64_t kSegment = 128;      // values that are decoded at a time
constexpr int64_t kGroupPairs = 4096;  // (token, expert) pairs that are in flight together

// Weight rows by one tile of tokens, with as many sums as kBlockRows by kBlockTokens.
constexpr int64_t kFewRows = kBlockTokens / kTile * kBlockRows;

// Packed activations, in float32 at worst.
constexpr int64_t packed_bytes(int64_t tokens, int64_t k) { return round_up(tokens, kTile) * round_up(k, 32) * 4; }

// A worker's sums.
constexpr int64_t sums_of_worker(int64_t tokens) { return kBlockTokens * (tokens > kTile ? kManyRows : kBlockRows); }

constexpr int64_t gemm_workspace(int64_t tokens, int64_t k, int64_t workers, int64_t groups = 1) {
  return 64 + groups * packed_bytes(tokens, k) + workers * sums_of_worker(tokens) * 4;
}

// Of few tokens all groups are one piece of work for the threads; of many each is enough, and so is its memory.
constexpr int64_t groups_together(int64_t tokens, int64_t groups) { return tokens <= kTile ? groups : 1; }

namespace {

// Where the parts of moe_experts' workspace lie, in bytes. A group holds at most kGroupPairs pairs.
struct MoeWorkspace {
  int64_t token, weight, experts, offsets, x, hidden, packed, sums, totals, size = 64;

  inline __attribute__((always_inline)) MoeWorkspace(const MoeExpertsParams& p) {
    const int64_t pairs = p.num_tokens * p.topk, group = pairs < kGroupPairs ? pairs : kGroupPairs;
    const int64_t entries = (p.num_experts < pairs ? p.num_experts : pairs) + pairs / kGroupPairs;
    const int64_t d = p.hidden_size, width = p.intermediate_size;
    const int64_t in_group = entries < group ? entries : group;
    const int64_t k = round_up(d > width ? d : width, 32);
    token = take(pairs * 4);
    weight = take(pairs * 4);
    experts = take(entries * 16);
    offsets = take((p.num_experts + 1) * 4);
    x = take(p.num_tokens * d * 4);
    hidden = take(group * width * 4);
    packed = take((group + in_group * (kTile - 1)) * k * 4);
    sums = take(p.num_workers * 2 * kBlockTokens * kExpertRows * 4);
    totals = take(p.shared == nullptr ? 0 : p.num_tokens * d * 4);
  }

 private:
  inline __attribute__((always_inline)) int64_t take(int64_t bytes) {
    const int64_t begin = size - 64;  // the first 64 are for aligning the base
    size += round_up(bytes, 64);
    return begin;
  }
};

}  // namespace
}  // namespace v4npu::cpu
