// Rows of the paged cache: where row i of a sequence lies, and whose token a query is.
#pragma once

#include "device.cuh"

namespace v4npu::cuda {

struct PageRow {
  const uint8_t *payload, *scales;  // null where the table names no page
};

// `payload` and `scales`: bytes of a row's values and, behind all values of a page, of its scales.
V4NPU_INLINE PageRow page_row(const void* pages, const int32_t* table, int64_t block_size, int64_t stride,
                              int64_t payload, int64_t scales, int64_t i) {
  const int64_t block = i / block_size, row = i % block_size, page = table[block];
  if (page < 0) return {nullptr, nullptr};
  const uint8_t* base = static_cast<const uint8_t*>(pages) + page * stride;
  return {base + row * payload, base + block_size * payload + row * scales};
}

// Where a slot's row is stored: its values and, behind all values of the page, its scales.
struct SlotRow {
  uint8_t *payload, *scales;
};
V4NPU_INLINE SlotRow slot_row(void* cache, int64_t slot, int64_t block_size, int64_t stride, int64_t payload,
                              int64_t scales) {
  uint8_t* page = static_cast<uint8_t*>(cache) + slot / block_size * stride;
  const int64_t row = slot % block_size;
  return {page + row * payload, page + block_size * payload + row * scales};
}

// Bytes of the scales of an fp8_kv row with `keep` e4m3 values (cache_layout.h).
V4NPU_INLINE int64_t kv_scale_bytes(int64_t keep) { return ((keep + 63) / 64 + 7) / 8 * 8; }

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
