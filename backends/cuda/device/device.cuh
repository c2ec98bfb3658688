// What kernels need of the GPU, once for nvcc and once for the host: places, barriers, warp operations, memory, tensor
// cores, copies in the background. A kernel includes this and nothing of CUDA, so the same text is compiled by nvcc for
// the device and by a host compiler against emulation/ (V4NPU_CUDA_EMULATION), which checks every access it makes.
//
//   V4NPU_KERNEL(rms_norm_bf16, 256, RmsNormParams) { rows<bf16>(p); }   // extern "C", p by value
//
// nvcc runs with -fmad=false: a fused multiply-add is one that was written, as on the CPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "shape.h"
#include "v4npu/dtype.h"
#include "v4npu/formats.h"

#if defined(V4NPU_CUDA_EMULATION)
#include "emulation.h"
#define V4NPU_DEVICE
#define V4NPU_INLINE inline
#define V4NPU_UNROLL
#define V4NPU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#else
#define V4NPU_DEVICE __device__
#define V4NPU_INLINE __device__ __forceinline__
#define V4NPU_UNROLL _Pragma("unroll")
#define V4NPU_HERE
// From sm_90 on blocks come to the device as those of the kernel before end, and wait here for all that it writes; so
// will those of the next, once each block of this one has come.
#if __CUDA_ARCH__ >= 900
#define V4NPU_WAIT_FOR_KERNELS_BEFORE() \
  asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory")
#else
#define V4NPU_WAIT_FOR_KERNELS_BEFORE()
#endif
// `together`: blocks for which a multiprocessor must have the registers.
#define V4NPU_KERNEL_WITH(name, threads, together, Params, ...)                                                        \
  static __device__ __forceinline__ void name##_of_thread(const Params& p);                                            \
  extern "C" __global__ void __VA_ARGS__ __launch_bounds__(threads, together) name(const __grid_constant__ Params p) { \
    V4NPU_WAIT_FOR_KERNELS_BEFORE();                                                                                   \
    name##_of_thread(p);                                                                                               \
  }                                                                                                                    \
  static __device__ __forceinline__ void name##_of_thread(const Params& p)
#define V4NPU_KERNEL(name, threads, Params) V4NPU_KERNEL_WITH(name, threads, 1, Params, )
#define V4NPU_KERNEL_BY_TWO(name, threads, Params) V4NPU_KERNEL_WITH(name, threads, 2, Params, )
// sm_90 and later: `blocks` neighbours (y) run at the same time and read each other's shared memory. Also by two.
#define V4NPU_CLUSTER_KERNEL(name, threads, blocks, Params) \
  V4NPU_KERNEL_WITH(name, threads, 2, Params, __cluster_dims__(1, blocks, 1))
#endif

namespace v4npu::cuda {

struct bf16 {
  uint16_t bits;
};
struct alignas(8) u32x2 {
  uint32_t x, y;
};
struct alignas(16) u32x4 {
  uint32_t x, y, z, w;
};

#if defined(V4NPU_CUDA_EMULATION)

// ---- places
inline int thread_id() { return emulation::thread_id(); }
inline int block_x() { return emulation::block_x(); }
inline int block_y() { return emulation::block_y(); }
inline int block_z() { return emulation::block_z(); }

// ---- barriers; all threads of the block, or of the warp, pass the same one
inline void sync_block(V4NPU_HERE) { emulation::sync_block(file, line); }
inline void sync_warp(V4NPU_HERE) { emulation::sync_warp(file, line); }

// ---- the cluster of a V4NPU_CLUSTER_KERNEL; a block must not end while another may read its shared memory
inline void sync_cluster(V4NPU_HERE) { emulation::sync_cluster(file, line); }
// What block `member` of the cluster has where this one has p, in shared memory.
template <class T>
inline T read_shared(const T* p, int member) {
  T v;
  emulation::read_shared(p, &v, sizeof(T), member);
  return v;
}

// ---- the warp; every lane takes part
inline uint32_t shuffle_xor(uint32_t v, int mask, V4NPU_HERE) { return emulation::shuffle_xor(v, mask, file, line); }
inline uint32_t shuffle(uint32_t v, int lane, V4NPU_HERE) { return emulation::shuffle(v, lane, file, line); }
inline uint32_t ballot(bool v, V4NPU_HERE) { return emulation::ballot(v, file, line); }

// ---- shared memory: one object of static size, or what the launch asked for; 16-byte aligned
template <class T>
inline T& shared() {
  static const char key = 0;
  return *static_cast<T*>(emulation::static_shared(&key, sizeof(T)));
}
inline unsigned char* dynamic_shared() { return static_cast<unsigned char*>(emulation::dynamic_shared()); }

// ---- memory: 16, 8 and 4 bytes from aligned places
template <class V, class T>
inline V load_as(const T* p) {
  emulation::check_aligned(p, sizeof(V));
  return *reinterpret_cast<const V*>(p);
}
template <class V, class T>
inline void store_as(T* p, V v) {
  emulation::check_aligned(p, sizeof(V));
  *reinterpret_cast<V*>(p) = v;
}

// ---- copies in the background, global to shared; without `valid` zeros are written and nothing is read
template <int Bytes>
inline void copy_async(void* shared, const void* global, bool valid) {
  emulation::copy_async(shared, global, Bytes, valid);
}
inline void commit_copies() { emulation::commit_copies(); }
template <int Pending>
inline void wait_copies(V4NPU_HERE) {
  emulation::wait_copies(Pending, file, line);
}

// ---- numbers
inline uint16_t to_bf16_bits(float x) { return bf16_encode(x); }
// a in the low half
inline uint32_t pack_bf16(float a, float b) { return bf16_encode(a) | uint32_t{bf16_encode(b)} << 16; }
// Both halves of a times both of b.
inline uint32_t multiply_bf16(uint32_t a, uint32_t b) {
  const auto product = [&](int at) {
    return uint32_t{
        bf16_encode(bf16_decode(static_cast<uint16_t>(a >> at)) * bf16_decode(static_cast<uint16_t>(b >> at)))};
  };
  return product(0) | product(16) << 16;
}
inline int count_bits(uint32_t v) { return __builtin_popcount(v); }
// Byte i of the result is byte (selector >> 4 i) & 7 of x (0 to 3) and y (4 to 7).
inline uint32_t pick_bytes(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t both = x | uint64_t{y} << 32;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) out |= static_cast<uint32_t>(both >> ((selector >> (4 * i) & 7) * 8) & 0xff) << (8 * i);
  return out;
}

// ---- tensor cores: layouts in emulation/collective.h, which are those of PTX
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], V4NPU_HERE) {
  emulation::mma_bf16(d, a, b, file, line);
}
inline void load_matrices(uint32_t (&r)[4], const void* row, V4NPU_HERE) {
  emulation::load_matrices(r, row, false, file, line);
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row, V4NPU_HERE) {
  emulation::load_matrices(r, row, true, file, line);
}

#else

V4NPU_INLINE int thread_id() { return static_cast<int>(threadIdx.x); }
V4NPU_INLINE int block_x() { return static_cast<int>(blockIdx.x); }
V4NPU_INLINE int block_y() { return static_cast<int>(blockIdx.y); }
V4NPU_INLINE int block_z() { return static_cast<int>(blockIdx.z); }

V4NPU_INLINE void sync_block() { __syncthreads(); }
V4NPU_INLINE void sync_warp() { __syncwarp(); }
V4NPU_INLINE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
V4NPU_INLINE uint32_t shared_of_block(const void* p, int member) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(there)
      : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(p))), "r"(member));
  return there;
}
V4NPU_INLINE float read_shared(const float* p, int member) {
  float v;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(shared_of_block(p, member)) : "memory");
  return v;
}
V4NPU_INLINE int32_t read_shared(const int32_t* p, int member) {
  int32_t v;
  asm volatile("ld.shared::cluster.b32 %0, [%1];" : "=r"(v) : "r"(shared_of_block(p, member)) : "memory");
  return v;
}
V4NPU_INLINE uint64_t read_shared(const uint64_t* p, int member) {
  uint64_t v;
  asm volatile("ld.shared::cluster.b64 %0, [%1];" : "=l"(v) : "r"(shared_of_block(p, member)) : "memory");
  return v;
}

V4NPU_INLINE uint32_t shuffle_xor(uint32_t v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
V4NPU_INLINE uint32_t shuffle(uint32_t v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
V4NPU_INLINE uint32_t ballot(bool v) { return __ballot_sync(0xffffffffu, v); }

template <class T>
V4NPU_INLINE T& shared() {
  __shared__ __align__(16) unsigned char storage[sizeof(T)];
  return *reinterpret_cast<T*>(storage);
}
V4NPU_INLINE unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char storage_of_launch[];
  return storage_of_launch;
}

template <class V, class T>
V4NPU_INLINE V load_as(const T* p) {
  return *reinterpret_cast<const V*>(p);
}
template <class V, class T>
V4NPU_INLINE void store_as(T* p, V v) {
  *reinterpret_cast<V*>(p) = v;
}

template <int Bytes>
V4NPU_INLINE void copy_async(void* shared, const void* global, bool valid) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int size = valid ? Bytes : 0;
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(size) : "memory");
  } else {
    static_assert(Bytes == 4 || Bytes == 8, "cp.async copies 4, 8 or 16 bytes");
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(at), "l"(global), "r"(size), "n"(Bytes)
                 : "memory");
  }
}
V4NPU_INLINE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
V4NPU_INLINE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

V4NPU_INLINE uint32_t pack_bf16(float a, float b) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(b), "f"(a));
  return bits;
}
// Of two: what converts a single one is an instruction of the slow unit for special functions.
V4NPU_INLINE uint16_t to_bf16_bits(float x) { return static_cast<uint16_t>(pack_bf16(x, 0.0f)); }
V4NPU_INLINE uint32_t multiply_bf16(uint32_t a, uint32_t b) {
  uint32_t product;  // sm_80 has no product alone; adding -0 changes nothing
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
  return product;
}
V4NPU_INLINE int count_bits(uint32_t v) { return __popc(v); }
V4NPU_INLINE uint32_t pick_bytes(uint32_t x, uint32_t y, uint32_t selector) { return __byte_perm(x, y, selector); }

V4NPU_INLINE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  // volatile: the lanes must stay together, wherever the sums are used
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
V4NPU_INLINE void load_matrices(uint32_t (&r)[4], const void* row) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
V4NPU_INLINE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

#endif

V4NPU_INLINE int lane_id() { return thread_id() % kWarp; }
V4NPU_INLINE int warp_id() { return thread_id() / kWarp; }
// Those of `lanes`, as ballot gives them, that come before this one.
V4NPU_INLINE int rank_in(uint32_t lanes) { return count_bits(lanes & ((1u << lane_id()) - 1)); }

V4NPU_INLINE float widen(float x) { return x; }
V4NPU_INLINE float widen(bf16 x) { return bf16_decode(x.bits); }
template <class T>
V4NPU_INLINE T narrow(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    return T{to_bf16_bits(x)};
  }
}
// x rounded to T and back.
template <class T>
V4NPU_INLINE float rounded(float x) {
  return widen(narrow<T>(x));
}

V4NPU_INLINE float magnitude(float x) { return bits_float(float_bits(x) & 0x7fffffff); }
V4NPU_INLINE bool is_nan(float x) { return x != x; }
// A float as an integer of the same order; NaN above all, and nothing is 0.
V4NPU_INLINE uint32_t order_of(float x) {
  if (is_nan(x)) return 0xffffffffu;
  const uint32_t bits = float_bits(x + 0.0f);  // -0 is 0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace v4npu::cuda
