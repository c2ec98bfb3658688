#include "plan/ascend.h"

#include <algorithm>
#include <cctype>

#include "v4npu/arithmetic.h"

namespace v4npu {

int ascend_architecture(const std::string& soc) {
  std::string name = soc;
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name.rfind("ascend910b", 0) == 0 || name.rfind("ascend910_93", 0) == 0) return 2201;
  return name.rfind("ascend950", 0) == 0 ? 3510 : 0;
}

std::string refuses_ascendc(const DeviceCaps& caps) {
  if (!caps.available) return "no npu that it can be launched on: " + caps.reason;
  if (ascend_architecture(caps.name) == 0)
    return "written for npus of the Ascend 910B, 910C and 950, not for " + caps.name;
  return "";
}

AscendTiles plan_ascend_tiles(int architecture, int64_t num_tokens, int64_t num_rows, int64_t groups,
                              int64_t num_cores) {
  constexpr int32_t kColumns = 256, kFractal = 16;
  const int32_t rows = architecture == 2201 ? 128 : 256;  // 128 KB of L0C, and 256
  const int64_t down = groups * ceil_div(num_tokens, rows), height = std::min<int64_t>(num_tokens, rows);
  AscendTiles best{rows, 0, 0, 0, 2 * kColumns * (architecture == 2201 ? 512 : 256)};
  int64_t least = 0;
  for (int32_t columns = kColumns; columns >= kFractal; columns /= 2) {
    const int64_t count = down * ceil_div(num_rows, columns);
    const int64_t read = ceil_div(count, num_cores) * (height + columns);
    if (best.columns == 0 || read < least) {
      best.columns = columns;
      best.count = count;
      least = read;
    }
  }
  best.blocks = std::min(best.count, num_cores);
  return best;
}

int64_t plan_ascend_head_tile(int64_t element_bytes, int64_t num_tokens, int64_t num_heads, int64_t num_cores) {
  int64_t tile = element_bytes == 4 ? 32 : 64;  // common/attention.h
  while (tile > 16 && (tile / 2 >= num_heads || num_tokens * ceil_div(num_heads, tile) < num_cores)) tile /= 2;
  return tile;
}

AscendTopkPlan plan_ascend_topk(int64_t num_tokens, int64_t width, int64_t num_cores) {
  constexpr int64_t kScores = (int64_t{64} << 20) / 4, kTile = 2048, kTileCost = 6;
  int64_t tokens = std::max<int64_t>(1, kScores / std::max<int64_t>(1, width));
  if (tokens > num_cores) tokens -= tokens % num_cores;
  tokens = std::max<int64_t>(1, std::min(tokens, num_tokens));
  const int64_t tiles = ceil_div(width, kTile), most = std::min(ceil_div(num_cores, tokens), tiles);
  AscendTopkPlan best{tokens, 1};
  for (int64_t count = 2, least = kTileCost * tiles; count <= most; ++count) {
    const int64_t cost = kTileCost * ceil_div(tiles, count) + count;
    if (cost < least) {
      best.parts = count;
      least = cost;
    }
  }
  return best;
}

}  // namespace v4npu
