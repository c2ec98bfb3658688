#include "plan/cpu_tiles.h"

#include <algorithm>

#include "v4npu/arithmetic.h"

namespace v4npu {
namespace {

constexpr int64_t kUsualL2 = int64_t{1} << 20;  // where a machine does not say

int64_t l2_of(const DeviceCaps& caps) { return caps.l2_bytes > 0 ? caps.l2_bytes : kUsualL2; }
int64_t vectors(int64_t n) { return round_up(n, 16); }

}  // namespace

// The queries, in float32, are read again for every 32 keys: half of the second cache holds them.
int64_t plan_cpu_query_tile(int64_t num_heads, int64_t head_dim, const DeviceCaps& caps) {
  int64_t tile = 32;
  while (tile > 4 && tile * num_heads * vectors(head_dim) * 4 > l2_of(caps) / 2) tile /= 2;
  return tile;
}

// Queries and sums of the heads, and 64 rows with their scores, are in the second cache together.
int64_t plan_cpu_head_group(int64_t head_dim, const DeviceCaps& caps) {
  const int64_t dim = vectors(head_dim), rows = 64;
  int64_t group = 64;
  while (group > 16 && 4 * (2 * group * dim + rows * (dim + 16 + group)) > l2_of(caps)) group /= 2;
  return group;
}

// Tokens are read again for every few weight rows: half of the second cache holds them.
int64_t plan_cpu_block_tokens(int64_t k, int64_t element, const DeviceCaps& caps) {
  const int64_t fit = l2_of(caps) / 2 / std::max<int64_t>(1, round_up(k, 32) * element);
  return std::clamp<int64_t>(fit / 96 * 96, 96, 480);
}

}  // namespace v4npu
