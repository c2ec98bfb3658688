// What we use of cuda.h, which is not there when the extension is built; a test compares it with a real one.
#pragma once

#include <cstdint>

namespace v4npu::cuda {

constexpr int kMultiprocessors = 16, kMajor = 75, kMinor = 76, kSharedOptin = 97;  // CUdevice_attribute
constexpr int kMaxSharedBytes = 8;                                                 // CUfunction_attribute
constexpr int kRelaxedCapture = 2;                                                 // CUstreamCaptureMode
constexpr int kProgrammaticSerialization = 6;                                      // CUlaunchAttributeID
constexpr int64_t kMaxGridX = (int64_t{1} << 31) - 1, kMaxGridYZ = 65'535;

struct LaunchAttribute {  // CUlaunchAttribute
  int32_t id;
  int32_t padding;
  int32_t value[16];
};

struct LaunchConfig {  // CUlaunchConfig
  uint32_t grid[3], block[3], shared_bytes;
  void* stream;
  LaunchAttribute* attributes;
  uint32_t num_attributes;
};

}  // namespace v4npu::cuda
