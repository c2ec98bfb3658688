// What a kernel did wrong ends the launch: the thread that did it never runs again, and the launch reports the text.
#pragma once

#include <string>

namespace v4npu::cuda::emulation {

// A place in a kernel's text.
struct Where {
  const char* file = "";
  int line = 0;
  std::string text() const {
    const std::string path = file;
    return path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
  }
  bool operator==(const Where& other) const { return file == other.file && line == other.line; }
};

// Back to the launch, from the thread that runs now.
[[noreturn]] void fault(const std::string& text);

}  // namespace v4npu::cuda::emulation
