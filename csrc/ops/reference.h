// The plain torch reference, for a launcher whose kernel does not take what it was given (a dtype, as a rule).
//
//   if (!native) return call_reference<Tensor>("rms_norm", x, weight, eps);
//
// v4npu_reference::<op> is registered by v4npu/dispatch.py. An exception does not survive torch's C interface, so
// Python leaves type and text of the reference's errors here and call_reference throws them again: ValueError stays
// ValueError, anything else becomes RuntimeError with its text.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <tuple>

#include "torch/csrc/stable/library.h"

namespace v4npu {

void note_reference_error(bool is_value_error, const std::string& text);

// Calls v4npu_reference::<op>: arguments in `stack` are consumed, results replace them.
void dispatch_reference(const char* op, StableIValue* stack);

template <class... Results, class... Args>
auto call_reference(const char* op, const Args&... args) {
  std::array<StableIValue, std::max(sizeof...(Args), sizeof...(Results))> stack{torch::stable::detail::from(args)...};
  dispatch_reference(op, stack.data());
  if constexpr (sizeof...(Results) == 1) {
    return torch::stable::detail::to<Results...>(stack[0]);
  } else {
    return torch::stable::detail::unbox_to_tuple<Results...>(stack.data());
  }
}

}  // namespace v4npu
