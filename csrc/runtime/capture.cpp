#include "runtime/capture.h"

#include <stdexcept>

namespace v4npu {

static thread_local Capture* current_capture = nullptr;

Capture* Capture::current() { return current_capture; }

void Capture::begin() {
  if (current_capture != nullptr) throw std::runtime_error("v4npu: a capture is under way on this thread");
  current_capture = this;
}

void Capture::end() {
  if (current_capture == this) current_capture = nullptr;
}

void Capture::replay(int64_t first, int64_t last) const {
  for (int64_t i = first; i < last; ++i) launches_[static_cast<size_t>(i)]();
}

}  // namespace v4npu
