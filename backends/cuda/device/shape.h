// Shapes that a kernel and its launcher must agree on. Plain C++: both compilers read it.
#pragma once

#include <cstdint>

namespace v4npu::cuda {

constexpr int kRowThreads = 256;  // of every kernel over rows
constexpr int kRowWarps = kRowThreads / 32;
constexpr int64_t kChunk = 8;       // consecutive elements of a row that one thread takes
constexpr int64_t kWarpRow = 1024;  // rows up to here are a warp's, longer ones a block's

constexpr int64_t ceil_of(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace v4npu::cuda
