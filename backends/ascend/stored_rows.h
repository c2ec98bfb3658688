// Rows that are rounded and go into a paged cache: the last steps of qkv_prepare and compressor.
#pragma once

#include "launch.h"

namespace v4npu::ascend {

// Rows, and what of them packed rows hold: codes of the first `coded` values, and their scales.
struct StoredRows {
  Tensor rows;
  OptTensor codes, scales;
  int64_t coded = 0;

  explicit StoredRows(const Tensor& whole) : rows(whole) {}
  // To e4m3 with a scale per 64 and back, the first `keep` values of each; a multiple of 64.
  void round_kv(int64_t keep);
  // Transformed, all values of each: to e2m1 with a scale per 32, or to e4m3 with one per row, at most 128 values. With
  // what packed rows hold of them if asked for.
  void round_keys(bool fp4, bool packed);
  // Where the slots say; a row of at most 8192 bytes.
  void store(const OptTensor& cache, const OptTensor& slots) const;
};

}  // namespace v4npu::ascend
