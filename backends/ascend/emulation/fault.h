// What the emulator throws: one sentence that names the kernel, the block, the limit and the source lines.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace v4npu::emulation {

using Where = std::source_location;

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string line_of(const Where& at) {
  std::string path = at.file_name();
  return path.substr(path.find_last_of('/') + 1) + ":" + std::to_string(at.line());
}

}  // namespace v4npu::emulation
