// simd.h on AVX-512 with AMX: avx512.h, and matrix tiles of bfloat16 for gemm_amx.h. A tile is 16 rows of 64 bytes.
//
// The compiler does not know that a tile instruction reads or writes memory (GCC's own intrinsics before 13 do not say
// so), hence the clobbers.
#pragma once

#include "avx512.h"

#define V4NPU_HAS_AMX 1

#ifdef V4NPU_TILES  // tests/native has them in memory
#include V4NPU_STRING(V4NPU_TILES)
#else

namespace v4npu::cpu::V4NPU_ISA {

template <int kTile>
V4NPU_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kTile>
V4NPU_INLINE void tile_load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
// Likewise of what is read once: it leaves the first cache to others.
template <int kTile>
V4NPU_INLINE void tile_stream(const void* p, int64_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
V4NPU_INLINE void tile_store(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
// c[i][j] += sum over k of a[i][k] b[k / 2][j][k % 2]. Even and odd k are summed apart in fp32, then added to c; the
// order is the same for every i and j. Subnormal numbers count as zero.
template <int kC, int kA, int kB>
V4NPU_INLINE void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

// All tiles 16 rows; 0 to 3 and 6, 7 (sums and the right operand) `columns` of 4 bytes, 4 and 5 (left operand) 64
// bytes.
V4NPU_INLINE void tile_configure(int columns) {
  alignas(64) uint8_t config[64] = {1};
  for (int i = 0; i < 8; ++i) {
    config[16 + 2 * i] = static_cast<uint8_t>(i == 4 || i == 5 ? 64 : 4 * columns);
    config[48 + i] = 16;
  }
  asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
// Leaves no tile state for the kernel to save at every context switch.
V4NPU_INLINE void tile_release() { asm volatile("tilerelease"); }

}  // namespace v4npu::cpu::V4NPU_ISA

#endif
