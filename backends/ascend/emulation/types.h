// Names and number types of the dialect that carry no behaviour of their own.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "happens_before.h"
#include "v4npu/formats.h"

// What the vendor's compiler predefines. On the host, kernels are plain functions and all memory is one address space.
#define __aicore__
#define __simd_vf__
#define __simd_callee__
#define __ubuf__
#define __global__
#define __gm__
#define GM_ADDR __gm__ uint8_t*
// The runner reads the type from the text; here it must only exist.
#define KERNEL_TASK_TYPE_DEFAULT(type) static_assert(AscendC::type >= 0)
#define ASCEND_IS_AIC (v4npu::emulation::runs_on_cube())
#define ASCEND_IS_AIV (!v4npu::emulation::runs_on_cube())

// The two 16-bit types only hold values; arithmetic is done in float and rounded once per operation.
struct half {
  half() = default;
  explicit half(float value) : value(static_cast<_Float16>(value)) {}
  operator float() const { return static_cast<float>(value); }
  _Float16 value;
};

struct bfloat16_t {
  bfloat16_t() = default;
  explicit bfloat16_t(float value) : code(v4npu::bf16_encode(value)) {}
  operator float() const { return v4npu::bf16_decode(code); }
  uint16_t code;
};

#if __NPU_ARCH__ == 3510
// Operands of the cube core and their scales: codes that only the cube core reads. fp4x2_e2m1_t is a pair to a byte.
struct fp8_e4m3fn_t {
  uint8_t code;
};
struct fp8_e5m2_t {
  uint8_t code;
};
struct fp8_e8m0_t {
  uint8_t code;
};
struct fp4x2_e2m1_t {
  uint8_t code;
};
#endif

enum pipe_t { PIPE_S, PIPE_V, PIPE_M, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_FIX, PIPE_ALL };

enum event_t { EVENT_ID0, EVENT_ID1, EVENT_ID2, EVENT_ID3, EVENT_ID4, EVENT_ID5, EVENT_ID6, EVENT_ID7 };

namespace AscendC {

using TEventID = int8_t;

template <typename T, typename U>
struct IsSameType : std::is_same<T, U> {};

// One vector core, one cube core, or a cube core with two vector cores to a block; MIX: with flags between cores.
enum KernelMetaType {
  KERNEL_TYPE_AIV_ONLY,
  KERNEL_TYPE_AIC_ONLY,
  KERNEL_TYPE_MIX_AIV_1_0,
  KERNEL_TYPE_MIX_AIC_1_0,
  KERNEL_TYPE_MIX_AIC_1_2
};

enum class TPosition : uint8_t { GM, A1, A2, B1, B2, CO1, VECIN, VECOUT, VECCALC };

// The events of vector and cube cores that the dialect uses, as the public header names them.
enum class HardEvent : uint8_t {
  MTE2_V,
  V_MTE2,
  MTE3_V,
  V_MTE3,
  V_V,
  MTE3_MTE2,
  MTE2_MTE3,
  S_V,
  V_S,
  S_MTE2,
  MTE2_S,
  S_MTE3,
  MTE3_S,
  MTE2_MTE1,
  MTE1_MTE2,
  MTE1_M,
  M_MTE1,
  M_FIX,
  FIX_M
};

enum class RoundMode : uint8_t { CAST_NONE, CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC, UNKNOWN = 0xff };

enum class CMPMODE : uint8_t { LT, GT, EQ, LE, GE, NE };

}  // namespace AscendC

namespace v4npu::emulation {

struct EventPipes {
  Pipe from, to;
  const char* name;
};

constexpr EventPipes kEvents[] = {{Pipe::MTE2, Pipe::V, "MTE2_V"},
                                  {Pipe::V, Pipe::MTE2, "V_MTE2"},
                                  {Pipe::MTE3, Pipe::V, "MTE3_V"},
                                  {Pipe::V, Pipe::MTE3, "V_MTE3"},
                                  {Pipe::V, Pipe::V, "V_V"},
                                  {Pipe::MTE3, Pipe::MTE2, "MTE3_MTE2"},
                                  {Pipe::MTE2, Pipe::MTE3, "MTE2_MTE3"},
                                  {Pipe::S, Pipe::V, "S_V"},
                                  {Pipe::V, Pipe::S, "V_S"},
                                  {Pipe::S, Pipe::MTE2, "S_MTE2"},
                                  {Pipe::MTE2, Pipe::S, "MTE2_S"},
                                  {Pipe::S, Pipe::MTE3, "S_MTE3"},
                                  {Pipe::MTE3, Pipe::S, "MTE3_S"},
                                  {Pipe::MTE2, Pipe::MTE1, "MTE2_MTE1"},
                                  {Pipe::MTE1, Pipe::MTE2, "MTE1_MTE2"},
                                  {Pipe::MTE1, Pipe::M, "MTE1_M"},
                                  {Pipe::M, Pipe::MTE1, "M_MTE1"},
                                  {Pipe::M, Pipe::FIX, "M_FIX"},
                                  {Pipe::FIX, Pipe::M, "FIX_M"}};

constexpr const EventPipes& pipes_of(AscendC::HardEvent event) { return kEvents[static_cast<int>(event)]; }

constexpr Pipe pipe_of(pipe_t pipe) {
  constexpr Pipe kOrder[] = {Pipe::S, Pipe::V, Pipe::M, Pipe::MTE1, Pipe::MTE2, Pipe::MTE3, Pipe::FIX};
  return kOrder[pipe];
}

template <typename T, typename... Allowed>
constexpr bool kOneOf = (std::is_same_v<T, Allowed> || ...);

// Values to an object of a type: tensors of pairs are indexed and measured in values.
template <typename T>
constexpr int kValues = 1;
#if __NPU_ARCH__ == 3510
template <>
inline constexpr int kValues<fp4x2_e2m1_t> = 2;
#endif

// Type lists of the reference pages: on 2201 some operations take fewer types.
constexpr bool kIs2201 = __NPU_ARCH__ == 2201;
constexpr bool kIs3510 = __NPU_ARCH__ == 3510;
static_assert(kIs2201 || kIs3510, "__NPU_ARCH__ must be 2201 or 3510");

}  // namespace v4npu::emulation
