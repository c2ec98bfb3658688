#include "ops/reference.h"

#include <stdexcept>

#include "runtime/capture.h"

namespace v4npu {
namespace {

struct Error {
  bool is_value_error = false;
  std::string text;
};
thread_local Error last_error;  // Python runs the reference on the thread of the launcher

}  // namespace

void note_reference_error(bool is_value_error, const std::string& text) { last_error = {is_value_error, text}; }

void dispatch_reference(const char* op, StableIValue* stack) {
  last_error = {};
  if (Capture* capture = Capture::current()) capture->miss();
  const std::string name = "v4npu_reference::" + std::string(op);
  if (torch_call_dispatcher(name.c_str(), "", stack, TORCH_ABI_VERSION) == TORCH_SUCCESS) return;
  const Error error = last_error;
  if (error.is_value_error) throw std::invalid_argument(error.text);
  throw std::runtime_error(error.text.empty() ? name + " failed; is v4npu imported?" : error.text);
}

}  // namespace v4npu
