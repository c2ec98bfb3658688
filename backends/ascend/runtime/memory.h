// Memory of the emulated device: host memory that only the device's own calls may be given.
#pragma once

#include <cstddef>
#include <cstdint>

namespace v4npu::runtime {

int64_t total_memory();  // bytes, of the chip

struct Allocation {
  char* begin;
  size_t bytes;
};

// The allocation that holds `address`, or one of no bytes.
Allocation allocation_of(const void* address);

// Throws Error unless [address, address + bytes) lies in one allocation of the device.
__attribute__((visibility("default"))) void require_device(const void* address, size_t bytes, const char* what);

}  // namespace v4npu::runtime
