// A block: a core, or a cube core and its two vector cores; their clocks and memories.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cross_flags.h"
#include "happens_before.h"
#include "shadow.h"

namespace v4npu::emulation {

// Memories on the chip. A local address is the memory's number above bit 32 and the byte below; bits 40 and up say
// which core it belongs to, once that is known: vector cores have a UB each, the cube core has the rest.
enum class Space : uint8_t { UB, L1, L0A, L0B, L0C, L0A_MX, L0B_MX };
constexpr int kSpaces = 7;
constexpr const char* kSpaceNames[kSpaces] = {"UB", "L1", "L0A", "L0B", "L0C", "L0A_MX", "L0B_MX"};
constexpr Space space_of(uint64_t address) { return static_cast<Space>(address >> 32 & 0xff); }
constexpr int owner_of(uint64_t address) { return static_cast<int>(address >> 40); }
constexpr uint64_t address_in(int owner, Space space, uint64_t byte) {
  return uint64_t{static_cast<uint8_t>(owner)} << 40 | uint64_t{static_cast<uint8_t>(space)} << 32 | byte;
}

// What the cores of a block share: on 3510 each reaches some of the others' memories.
struct BlockMemory {
  std::vector<uint8_t> bytes[kCores][kSpaces];
  Shadow shadow;
  std::map<uint64_t, std::string> labels;
  std::map<uint64_t, uint64_t> ends;  // of the buffers and tensors that the labels name
};

struct Block {
  int number;
  bool mixed;         // a cube core and its two vector cores
  std::string label;  // how its faults begin
  CrossFlags& flags;
  PipeClocks clocks{};
  BlockMemory memory{};
};

}  // namespace v4npu::emulation
