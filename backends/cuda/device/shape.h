// Shapes that a kernel and its launcher must agree on. Plain C++: both compilers read it.
#pragma once

#include <cstdint>

namespace v4npu::cuda {

constexpr int kRowThreads = 256;  // of every kernel over rows
constexpr int kRowWarps = kRowThreads / 32;
constexpr int64_t kChunk = 8;       // consecutive elements of a row that one thread takes
constexpr int64_t kWarpRow = 1024;  // rows up to here are a warp's, longer ones a block's

// Products with rows of weights (products.cuh).
constexpr int64_t kColumns = 1024;  // of a partial sum
constexpr int64_t kTokenTile = 8;   // of a block
constexpr int64_t kMaxPieces = 64;  // partial sums of a dot: rows of up to 65,536 columns
constexpr int64_t kMaxExperts = 1024;
constexpr int64_t kMaxStreams = 16;
constexpr int64_t kMaxIndexHead = 256;
constexpr int64_t kMaxHadamard = 1024;

struct Products {
  const void* x;       // [num_tokens, k]
  const void* weight;  // [num_rows, k]
  float* out;          // fp32 [num_tokens, num_rows]
  int64_t num_tokens;
  int64_t num_rows;
  int64_t k;
  int64_t rows_per_block;  // a choice that changes no bit
};

constexpr int64_t ceil_of(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace v4npu::cuda
