// What the emulator throws: one sentence that names the kernel, the block, the limit and the source lines.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

namespace v4npu::emulation {

using Where = std::source_location;

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string line_of(const Where& at) {
  std::string path = at.file_name();
  return path.substr(path.find_last_of('/') + 1) + ":" + std::to_string(at.line());
}

// The first texts of a list, and how many more there are.
inline std::string listed(const std::vector<std::string>& texts, size_t limit) {
  std::string list;
  for (size_t i = 0; i < texts.size() && i < limit; ++i) list += (i == 0 ? "" : ", ") + texts[i];
  if (texts.size() > limit) list += " and " + std::to_string(texts.size() - limit) + " more";
  return list;
}

}  // namespace v4npu::emulation
