// How a call of the emulated runtime fails: a code for the caller and a sentence for aclGetRecentErrMsg.
#pragma once

#include <stdexcept>
#include <string>

#include "acl.h"

namespace v4npu::runtime {

struct Error : std::runtime_error {
  Error(Status code_, const std::string& text) : std::runtime_error(text), code(code_) {}
  Status code;
};

// Leaves the sentence for this thread's aclGetRecentErrMsg.
__attribute__((visibility("default"))) Status fail(Status code, const std::string& text);

// Runs body(); what it throws becomes the status of `call`.
template <typename Body>
Status guarded(const char* call, Body body) {
  try {
    body();
    return ACL_SUCCESS;
  } catch (const Error& error) {
    return fail(error.code, std::string(call) + ": " + error.what());
  } catch (const std::exception& error) {
    return fail(ACL_ERROR_RT_AICORE_EXCEPTION, std::string(call) + ": " + error.what());
  }
}

inline void require(bool holds, const std::string& text, Status code = ACL_ERROR_RT_PARAM_INVALID) {
  if (!holds) throw Error(code, text);
}

}  // namespace v4npu::runtime
