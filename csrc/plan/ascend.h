// Plans for Ascend NPUs: pure functions of the device, so that they are tested on invented ones.
#pragma once

#include <cstdint>
#include <string>

#include "v4npu/device_caps.h"

namespace v4npu {

// The architecture of a chip by the vendor's name, in any case: 2201 of "Ascend910B1" or "ascend910_9391", 3510 of
// "ascend950dt"; 0 of one that no kernel here is written for.
int ascend_architecture(const std::string& soc);

// Why no kernel of ours runs there; empty if they do.
std::string refuses_ascendc(const DeviceCaps& caps);

// The part of a product that a cube core makes at a time, and how many there are.
struct AscendTiles {
  int32_t rows, columns;
  int64_t count, blocks;
  int64_t slot_bytes;  // of the workspace of a block whose vector cores expand the weight (cube_dequantised.h)
};

// The tiles of `groups` products [num_tokens, num_rows]: as many rows as L0C holds with 256 columns in float32, and the
// number of columns with which the busiest core reads least. No sum depends on it.
AscendTiles plan_ascend_tiles(int architecture, int64_t num_tokens, int64_t num_rows, int64_t groups,
                              int64_t num_cores);

// How many heads of a token a cube core attends with at a time: as many as its buffers hold of values that large, fewer
// where cores would be idle otherwise. No result depends on it.
int64_t plan_ascend_head_tile(int64_t element_bytes, int64_t num_tokens, int64_t num_heads, int64_t num_cores);

// How indexer_topk goes through tokens that have room for `width` entries each: the scores of so many tokens at a time
// that they take at most 64 MiB (but of one token at least), each token's in the number of parts that takes least, at
// most one for each vector core. A part is whole tiles of 2048; by the time model a tile takes as long to sort as six
// parts' lists take to merge.
struct AscendTopkPlan {
  int64_t tokens, parts;
};
AscendTopkPlan plan_ascend_topk(int64_t num_tokens, int64_t width, int64_t num_cores);

}  // namespace v4npu
