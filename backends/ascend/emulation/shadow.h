// For each byte of a memory: the instruction that last wrote it, the last readers (one for each key: a lane, or a lane
// of a block), and whether its value means anything. Kept in pages, made on first touch, so that global memory of any
// size costs only what is used.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace v4npu::emulation {

using InstructionId = uint32_t;  // 0 = none

class Shadow {
 public:
  static constexpr uint64_t kPageBytes = 4096;

  struct Page {
    InstructionId writer[kPageBytes] = {};
    std::vector<std::pair<int, std::unique_ptr<InstructionId[]>>> readers;
    bool valid[kPageBytes] = {};

    InstructionId* reader(int key) {
      for (auto& [known, ids] : readers) {
        if (known == key) return ids.get();
      }
      return readers.emplace_back(key, std::make_unique<InstructionId[]>(kPageBytes)).second.get();
    }
  };

  // Calls visit(page, first byte in the page, bytes in the page, address of that byte) along [address, address +
  // bytes).
  template <typename Visit>
  void for_range(uint64_t address, uint64_t bytes, Visit visit) {
    for_parts(address, bytes, [&](uint64_t number, uint64_t first, uint64_t here, uint64_t at) {
      std::unique_ptr<Page>& page = pages_[number];
      if (page == nullptr) page = std::make_unique<Page>();
      visit(*page, first, here, at);
    });
  }

  // Whether the bytes mean anything; who touched them stays known.
  void set_valid(uint64_t address, uint64_t bytes, bool valid) {
    for_parts(address, bytes, [&](uint64_t number, uint64_t first, uint64_t here, uint64_t) {
      auto found = pages_.find(number);
      if (found == pages_.end() && !valid) return;  // what was never touched means nothing already
      if (found == pages_.end()) found = pages_.emplace(number, std::make_unique<Page>()).first;
      std::memset(found->second->valid + first, valid, here);
    });
  }

 private:
  // part(number of the page, first byte in it, bytes in it, address of that byte)
  template <typename Part>
  static void for_parts(uint64_t address, uint64_t bytes, Part part) {
    while (bytes > 0) {
      const uint64_t first = address % kPageBytes;
      const uint64_t here = bytes < kPageBytes - first ? bytes : kPageBytes - first;
      part(address / kPageBytes, first, here, address);
      address += here;
      bytes -= here;
    }
  }

  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
};

}  // namespace v4npu::emulation
