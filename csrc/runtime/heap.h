// The process's heap.
#pragma once

namespace v4npu {

// Gives memory that was freed, but that the C library keeps, back to the system. glibc before 2.38 seldom reuses what
// an aligned allocation left free, and torch aligns all of its: prefilling piece by piece, residence grows without end.
// Does nothing where the C library has no such call.
void release_free_heap();

}  // namespace v4npu
