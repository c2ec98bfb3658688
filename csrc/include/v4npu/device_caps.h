// What a device can do, or why it cannot be used. Plain data, so that a plan can be tested on an invented machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace v4npu {

struct DeviceCaps {
  std::string kind;  // "cpu" | "cuda" | "npu"
  std::string name;  // what the vendor calls it: "x86_64", "sm_90", "ascend950dt"
  bool available = false;
  std::string reason;                 // why not, when not available
  std::vector<std::string> features;  // vendor's words: "avx2", "sve", "sm_90", "dav_3510"
  std::string only;                   // the one variant to use, when the user asks for one
  int num_cores = 0;                  // logical cores, multiprocessors or AI cores
  int64_t memory_bytes = 0;           // 0 = unknown
  int64_t l2_bytes = 0;               // of a core's second cache; 0 = unknown
  int64_t shared_bytes = 0;           // that a block of a GPU may have; 0 = unknown

  bool has(const std::string& feature) const {
    for (const std::string& f : features) {
      if (f == feature) return true;
    }
    return false;
  }
};

}  // namespace v4npu
