// What device.cuh calls on the host. Implemented in the runtime, not in the kernels' libraries: those are compiled with
// -fsanitize=thread, whose calls at every access of memory the runtime answers too (memory.h).
#pragma once

#include <cstddef>
#include <cstdint>

// A kernel is called once per thread, on that thread's own stack. Its limits are data beside it.
#define V4NPU_KERNEL(name, threads, Params) V4NPU_CLUSTER_KERNEL(name, threads, 1, Params)
#define V4NPU_KERNEL_BY_TWO(name, threads, Params) V4NPU_KERNEL(name, threads, Params)
#define V4NPU_CLUSTER_KERNEL(name, threads, blocks, Params)                      \
  static void name##_of_thread(const Params& p);                                 \
  extern "C" {                                                                   \
  extern const int name##_threads = threads;                                     \
  extern const int name##_cluster = blocks;                                      \
  extern const size_t name##_params = sizeof(Params);                            \
  void name(const void* p) { name##_of_thread(*static_cast<const Params*>(p)); } \
  }                                                                              \
  static void name##_of_thread(const Params& p)

namespace v4npu::cuda::emulation {

int thread_id();
int block_x();
int block_y();
int block_z();

void sync_block(const char* file, int line);
void sync_warp(const char* file, int line);
void sync_cluster(const char* file, int line);
void read_shared(const void* p, void* to, size_t bytes, int member);
uint32_t shuffle_xor(uint32_t v, int mask, const char* file, int line);
uint32_t shuffle(uint32_t v, int lane, const char* file, int line);
uint32_t ballot(bool v, const char* file, int line);
void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, const char* file, int line);
void load_matrices(uint32_t* r, const void* row, bool transposed, const char* file, int line);

void* static_shared(const void* key, size_t bytes);
void* dynamic_shared();
void check_aligned(const void* p, size_t bytes);
void copy_async(void* shared, const void* global, int bytes, bool valid);
void commit_copies();
void wait_copies(int pending, const char* file, int line);

}  // namespace v4npu::cuda::emulation
