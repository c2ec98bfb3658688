// Modelled time, a lower bound: an instruction takes the cycles that its bytes or fractals need at the published rate
// of its pipe, pipes overlap as far as flags and queues let them, and blocks go to the core that is free first.
//
// Not modelled: the start of an instruction, the latency of memory, caches, bank conflicts, scalar work, contention
// other than a fair share of global memory. So a kernel takes longer than this on a chip; by how much is not known
// here. Sources: [arch] and [ini] as in skus.h; [cube] "Theoretical performance of cube instructions", an appendix of
// the API reference of asc-devkit (commit 82b89a15), without the start-up that it adds to each. Each rate is per core.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core.h"

namespace v4npu::emulation {

constexpr double kVectorRate = 256;  // bytes of an operand a cycle [arch]

// Bytes a cycle from L1 to L0A, L0B and the scales of both [cube]. The files of the 2201 [ini] say twice as much, 512
// and 256: figures for the tiling of graphs, where [cube] speaks of LoadData itself, so [cube] it is.
constexpr double l1_rate(int arch, Space to) {
  if (to == Space::L0A_MX || to == Space::L0B_MX) return 32;
  return arch == 2201 && to == Space::L0B ? 128 : 256;
}

// 3510: from L0C to a UB or L1, and from a UB to L1 [arch]. What goes to both UBs goes at twice the rate: "with one
// vector core the FixPipe moves 128 bytes a cycle" (FlashMLA, docs/20260930-ascend-prefill-deep-dive.md).
constexpr double kDirectRate = 128;

// A cycle multiplies a fractal of 16 x 16 by one of 16 x 16, 16-bit operands [arch].
constexpr double kFractalProducts = 1;

// Global memory: an even share of the AI core's rate for each of its cores that the kernel runs.
inline double memory_rate(const Sku& sku, bool vectors_alone) { return sku.memory_rate / (vectors_alone ? 2 : 1); }

// Reads and writes of global memory overlap in time but share the rate.
inline void bound_by_memory(const Launch& launch, std::vector<double>& block_cycles) {
  std::vector<double> memory_cycles(block_cycles.size());
  for (size_t id = 1; id < launch.issued.size(); ++id) {
    const Instruction& i = launch.issued[id];
    if (i.global) memory_cycles[i.block] += i.cycles;
  }
  for (size_t b = 0; b < block_cycles.size(); ++b) block_cycles[b] = std::max(block_cycles[b], memory_cycles[b]);
}

// When all blocks are done, in cycles: each goes to the first free of `cores` cores.
inline double makespan(const std::vector<double>& block_cycles, int cores) {
  std::vector<double> free_at(cores);
  for (double cycles : block_cycles) *std::min_element(free_at.begin(), free_at.end()) += cycles;
  return *std::max_element(free_at.begin(), free_at.end());
}

// The launch in Chrome's trace format: a process per block, a thread per pipe; microseconds.
inline std::string chrome_trace(const Launch& launch) {
  const double cycles_per_us = launch.sku.ghz * 1e3;
  std::string text = R"({"displayTimeUnit": "ns", "otherData": {"times": "modelled, lower bounds"}, "traceEvents": [)";
  const char* separator = "\n";
  std::set<std::pair<int, int>> named;
  for (size_t id = 1; id < launch.issued.size(); ++id) {
    const Instruction& i = launch.issued[id];
    const std::string thread = "\"pid\": " + std::to_string(i.block) + ", \"tid\": " + std::to_string(i.lane.index());
    if (named.insert({i.block, i.lane.index()}).second) {
      text += separator + (R"({"name": "thread_name", "ph": "M", )" + thread) + R"(, "args": {"name": ")" +
              kCoreNames[i.lane.core] + " " + name(i.lane.pipe) + "\"}}";
      separator = ",\n";
    }
    text += separator + (R"({"name": ")" + std::string(i.name)) + R"(", "ph": "X", )" + thread +
            ", \"ts\": " + std::to_string(i.start / cycles_per_us) +
            ", \"dur\": " + std::to_string(i.cycles / cycles_per_us) + R"(, "args": {"at": ")" + line_of(i.at) + "\"}}";
  }
  return text + "\n]}\n";
}

}  // namespace v4npu::emulation
