// Tiles of CPU kernels: pure functions of sizes and machine, so that they are tested on invented ones. None of them
// shows in a result: a tile says what a thread takes at a time, never in which order anything is summed.
#pragma once

#include <cstdint>

#include "v4npu/device_caps.h"

namespace v4npu {

// Queries that meet the indexer's keys together: 4 to 32, a power of two.
int64_t plan_cpu_query_tile(int64_t num_heads, int64_t head_dim, const DeviceCaps& caps);

// Heads of one query that a thread attends with at a time: 16 to 64, a power of two.
int64_t plan_cpu_head_group(int64_t head_dim, const DeviceCaps& caps);

// Tokens of a product that meet the same decoded weight rows: 96 to 480, a multiple of 96. k is how many values of a
// row they meet before other rows, element the bytes of one as it is multiplied.
int64_t plan_cpu_block_tokens(int64_t k, int64_t element, const DeviceCaps& caps);

}  // namespace v4npu
