// Memory of the calling thread, kept from call to call, for what does not fit on the stack. Free of torch headers:
// kernels include it (see simd.h).
#pragma once

#include <cstdint>

namespace v4npu::cpu {

// Whose memory it is: a body of parallel_for may run on the thread that called the kernel.
enum class Scratch { kBody, kCall };

// At least `bytes` of it, aligned to a cache line; holds until the thread's next call with the same owner.
void* scratch(Scratch owner, int64_t bytes);

}  // namespace v4npu::cpu
