// Rows of a page of the cache: the bytes that one takes in each format, and where it lies. For launchers and kernels.
//
// A page holds the payloads of its rows one after the other, then their scales. Formats of a row:
//   plain      dim values of the activations' dtype                                          512 bf16: 1024
//   fp8_kv     dim - rope_dim e4m3, rope_dim bf16 | a ue8m0 per 64 e4m3, padded to 8         512, 64:   584
//   fp4_key    dim/2 bytes of two e2m1, low nibble even | a ue8m0 per 32                     128:        68
//   fp8_key    dim e4m3 | one fp32 scale (V3.2 and servers; its values rounded to bf16)      128:       132
//   fp8_row    dim e4m3 | a ue8m0 per 32                              (V4.1 windows)         512:       528
//   fp4_row    dim/2 bytes of two e2m1 | an e4m3 scale per 16         (V4.1 entries)         512:       288
#pragma once

#include <cstdint>

#include "v4npu/arithmetic.h"
#include "v4npu/host_device.h"

namespace v4npu {

constexpr int64_t kPageAlign = 64;    // a cache line, and what every vector unit's loads like
constexpr int64_t kKvGroup = 64;      // e4m3 values per scale of an fp8_kv row
constexpr int64_t kKeyGroup = 32;     // e2m1 values per scale of an fp4_key row
constexpr int64_t kScalePadding = 8;  // of an fp8_kv row: 7 scales of a 512-row are read as one word

// In bytes.
struct RowFormat {
  int64_t payload = 0;  // the values of one row
  int64_t scales = 0;   // its scales
  V4NPU_HD constexpr int64_t row() const { return payload + scales; }
  V4NPU_HD constexpr int64_t page(int64_t rows) const { return round_up(rows * row(), kPageAlign); }
};

V4NPU_HD constexpr RowFormat plain_row(int64_t dim, int64_t element) { return {dim * element, 0}; }
V4NPU_HD constexpr RowFormat fp8_kv_row(int64_t dim, int64_t rope_dim) {
  return {dim + rope_dim, round_up(ceil_div(dim - rope_dim, kKvGroup), kScalePadding)};
}
V4NPU_HD constexpr RowFormat fp4_key_row(int64_t dim) { return {dim / 2, ceil_div(dim, kKeyGroup)}; }
V4NPU_HD constexpr RowFormat fp8_key_row(int64_t dim) { return {dim, 4}; }
V4NPU_HD constexpr RowFormat fp8_row(int64_t dim) { return {dim, ceil_div(dim, 32)}; }
V4NPU_HD constexpr RowFormat fp4_row(int64_t dim) { return {dim / 2, ceil_div(dim, 16)}; }

// Where a row lies: Byte is uint8_t, const where rows are read.
template <class Byte>
struct RowPlace {
  Byte *payload, *scales;
};

// Row i of a page with room for `rows`.
template <class Byte>
V4NPU_HD constexpr RowPlace<Byte> row_place(Byte* page, int64_t rows, const RowFormat& format, int64_t i) {
  return {page + i * format.payload, page + rows * format.payload + i * format.scales};
}

}  // namespace v4npu
