// V4NPU_HD: what stands before a function that hosts and devices share, where a device's compiler wants to be told. On
// a host it is always inlined: sources compiled for different instruction sets share it, and must not share a copy.
#pragma once

#if defined(__CUDACC__)
#define V4NPU_HD __host__ __device__
#elif defined(__GNUC__)
#define V4NPU_HD __attribute__((always_inline))
#else
#define V4NPU_HD
#endif
