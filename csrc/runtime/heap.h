// The process's heap.
#pragma once

#include <cstdint>

namespace v4npu {

// Asks for large pages under memory that nothing has touched yet: reading the weights once for each token walks through
// more 4 KiB pages than a core's translation cache holds. Only advice: it never fails, and does nothing where there are
// none.
void advise_large_pages(uintptr_t begin, int64_t bytes);

// Memory for a large tensor, in large pages where there are any; null where the system gives none. New pages are
// cleared before their first use, and a virtual machine may have to be given them, which takes longer than many an
// operator. So of what is given back up to 1 GiB is kept for the next tensors, though the system may have it when it
// runs short.
void* take_block(int64_t bytes);
void give_back_block(void* block);

// Gives blocks that are kept, and memory that was freed, but that the C library keeps, back to the system. glibc
// before 2.38 seldom reuses what an aligned allocation left free, and torch aligns all of its own, so resident memory
// would grow with every piece of a long prefill. Does nothing where the C library has no such call.
void release_free_heap();

}  // namespace v4npu
