// The tiles of backends/cpu/simd/amx.h in memory, by AVX-512: for machines without AMX, and for sanitizers, which do
// not see what tile instructions read and write. Not compared with a machine's.
#pragma once

namespace v4npu::cpu::V4NPU_ISA {

struct Tiles {
  alignas(64) float row[8][16][16];
  size_t bytes[8];  // of a row
};
inline thread_local Tiles tile_memory;

template <int kTile>
V4NPU_INLINE void tile_zero() {
  std::memset(tile_memory.row[kTile], 0, sizeof tile_memory.row[kTile]);
}
template <int kTile>
V4NPU_INLINE void tile_load(const void* p, int64_t stride) {
  tile_zero<kTile>();
  const auto* from = static_cast<const char*>(p);
  for (int i = 0; i < 16; ++i) std::memcpy(tile_memory.row[kTile][i], from + i * stride, tile_memory.bytes[kTile]);
}
template <int kTile>
V4NPU_INLINE void tile_stream(const void* p, int64_t stride) {
  tile_load<kTile>(p, stride);
}
template <int kTile>
V4NPU_INLINE void tile_store(void* p, int64_t stride) {
  auto* to = static_cast<char*>(p);
  for (int i = 0; i < 16; ++i) std::memcpy(to + i * stride, tile_memory.row[kTile][i], tile_memory.bytes[kTile]);
}
// Chains of fused multiply-adds from zero, of even and of odd k, whose sum is added to c.
template <int kC, int kA, int kB>
V4NPU_INLINE void tile_dot() {
  const auto halves = [](__m512i v, __m512(&out)[2]) {
    out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
    out[1] = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
  };
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040);  // subnormal inputs and results are zero
  for (int i = 0; i < 16; ++i) {
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int k = 0; k < 16; ++k) {
      __m512 a[2], b[2];
      int32_t pair;
      std::memcpy(&pair, &tile_memory.row[kA][i][k], sizeof pair);
      halves(_mm512_set1_epi32(pair), a);
      halves(_mm512_load_si512(tile_memory.row[kB][k]), b);
      for (int j = 0; j < 2; ++j) sum[j] = _mm512_fmadd_ps(a[j], b[j], sum[j]);
    }
    float* const c = tile_memory.row[kC][i];
    const __mmask16 columns = static_cast<__mmask16>((1u << tile_memory.bytes[kC] / 4) - 1);
    const __m512 total = _mm512_add_ps(_mm512_load_ps(c), _mm512_add_ps(sum[0], sum[1]));
    _mm512_store_ps(c, _mm512_maskz_mov_ps(columns, total));
  }
  _mm_setcsr(mode);
}

V4NPU_INLINE void tile_configure(int columns) {
  std::memset(tile_memory.row, 0, sizeof tile_memory.row);
  for (int i = 0; i < 8; ++i) tile_memory.bytes[i] = i == 4 || i == 5 ? 64 : 4 * static_cast<size_t>(columns);
}
// What is left of them would be an error that nothing shows.
V4NPU_INLINE void tile_release() { std::memset(tile_memory.row, 0xff, sizeof tile_memory.row); }

}  // namespace v4npu::cpu::V4NPU_ISA
