// Functions that torch-npu names and this runtime lacks: v4npu/emulate.py lists them. Weak, so that one that exists
// takes its place. None is silent.
#pragma once

#include "error.h"

// Whatever it should return: an exception needs no return type.
#define V4NPU_MISSING(name)                                                            \
  extern "C" __attribute__((visibility("default"), weak)) void name() {                \
    throw std::runtime_error("emulated Ascend runtime: " #name " is not implemented"); \
  }

// Both phases report a status. The caller may look at the second one's alone.
#define V4NPU_MISSING_ACLNN(name)                                                           \
  extern "C" __attribute__((visibility("default"), weak)) Status name##GetWorkspaceSize() { \
    return v4npu::runtime::fail(ACL_ERROR_API_NOT_SUPPORT, #name " is not implemented");    \
  }                                                                                         \
  extern "C" __attribute__((visibility("default"), weak)) Status name() {                   \
    return v4npu::runtime::fail(ACL_ERROR_API_NOT_SUPPORT, #name " is not implemented");    \
  }
