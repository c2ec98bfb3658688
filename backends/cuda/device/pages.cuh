// Rows of the paged cache: where row i of a sequence lies, and whose token a query is.
#pragma once

#include "device.cuh"
#include "v4npu/row_format.h"

namespace v4npu::cuda {

using PageRow = RowPlace<const uint8_t>;  // null where the table names no page

V4NPU_INLINE PageRow page_row(const void* pages, const int32_t* table, int64_t block_size, int64_t stride,
                              const RowFormat& format, int64_t i) {
  const int64_t block = i / block_size, row = i % block_size, page = table[block];
  if (page < 0) return {nullptr, nullptr};
  return row_place(static_cast<const uint8_t*>(pages) + page * stride, block_size, format, row);
}

// Where a slot's row is stored.
using SlotRow = RowPlace<uint8_t>;
V4NPU_INLINE SlotRow slot_row(void* cache, int64_t slot, int64_t block_size, int64_t stride, const RowFormat& format) {
  return row_place(static_cast<uint8_t*>(cache) + slot / block_size * stride, block_size, format, slot % block_size);
}

struct QueryPlace {
  int64_t sequence, position;
};

// Of token t, by bisection over the sequences' ends.
V4NPU_INLINE QueryPlace place_of(const int32_t* cu_seqlens_q, const int32_t* start_pos, int64_t num_seqs, int64_t t) {
  int64_t low = 0, high = num_seqs - 1;  // the last sequence that begins at or before t has it, unless it is empty
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (cu_seqlens_q[middle] <= t) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return {low, start_pos[low] + t - cu_seqlens_q[low]};
}

}  // namespace v4npu::cuda
