// Vector instructions over the first `count` elements of tensors in the UB, for the types that 2201 and 3510 both take.
//
// Arithmetic is IEEE single, rounded to 16 bits once where the type is. Not modelled: subnormals, which the chip may
// flush to zero; Max, Maxs and Mins of a NaN give the second operand.
#pragma once

#include <cmath>

#include "tensor.h"

namespace v4npu::emulation {

// The type arithmetic runs in. Unsigned integers, because a vector lane wraps.
template <typename T>
using Wide = std::conditional_t<std::is_integral_v<T>, std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>, float>;

template <typename T>
constexpr bool kArithmetic = kOneOf<T, half, float, int16_t, int32_t>;
template <typename T>
constexpr bool kFloating = kOneOf<T, half, float>;
template <typename T>
constexpr bool kShifted = kOneOf<T, int16_t, uint16_t, int32_t, uint32_t>;

template <typename T, typename F>
void unary(const char* name, const Local<T>& dst, const Local<T>& src, int64_t count, const Where& at, F function) {
  Op op(name, Pipe::V, at);
  const T* a = op.read(src, count);
  T* out = op.write(dst, count);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(function(a[i]));
}

template <typename T, typename F>
void binary(const char* name, const Local<T>& dst, const Local<T>& src0, const Local<T>& src1, int64_t count,
            const Where& at, F function) {
  Op op(name, Pipe::V, at);
  const T* a = op.read(src0, count);
  const T* b = op.read(src1, count);
  T* out = op.write(dst, count);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(function(a[i], b[i]));
}

}  // namespace v4npu::emulation

namespace AscendC {

// ---- two tensors a and b, as W

#define VECTOR_BINARY(name, W, expression, types)                                                                    \
  template <typename T>                                                                                              \
  void name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, const int32_t& count, \
            const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {                                \
    using namespace v4npu::emulation;                                                                                \
    static_assert(types<T>);                                                                                         \
    binary(#name, dst, src0, src1, count, at, [](W a, W b) -> W { return expression; });                             \
  }

VECTOR_BINARY(Add, Wide<T>, a + b, kArithmetic)
VECTOR_BINARY(Sub, Wide<T>, a - b, kArithmetic)
VECTOR_BINARY(Mul, Wide<T>, a* b, kArithmetic)
VECTOR_BINARY(Div, float, a / b, kFloating)
VECTOR_BINARY(Max, T, a > b ? a : b, kArithmetic)
#undef VECTOR_BINARY

// ---- a tensor a and a scalar b, as W

#define VECTOR_SCALAR(name, W, expression)                                                                    \
  template <typename T>                                                                                       \
  void name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, const int32_t& count, \
            const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {                         \
    using namespace v4npu::emulation;                                                                         \
    static_assert(kArithmetic<T>);                                                                            \
    const W b = scalarValue;                                                                                  \
    unary(#name, dst, src, count, at, [b](W a) -> W { return expression; });                                  \
  }

VECTOR_SCALAR(Adds, Wide<T>, a + b)
VECTOR_SCALAR(Muls, Wide<T>, a* b)
VECTOR_SCALAR(Maxs, T, a > b ? a : b)
VECTOR_SCALAR(Mins, T, a < b ? a : b)
#undef VECTOR_SCALAR

// A signed left shift keeps the sign bit and drops the next one (reference page): only the unsigned one is offered.
template <typename T>
void ShiftLeft(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, const int32_t& count,
               const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kOneOf<T, uint16_t, uint32_t>);
  const int by = static_cast<int>(scalarValue);
  unary("ShiftLeft", dst, src, count, at, [by](T a) -> T { return by >= int{8 * sizeof(T)} ? 0 : a << by; });
}

// Arithmetic for signed types, logical for unsigned ones.
template <typename T>
void ShiftRight(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, const int32_t& count,
                const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kShifted<T>);
  const int by = static_cast<int>(scalarValue);
  unary("ShiftRight", dst, src, count, at, [by](T a) -> T { return static_cast<int64_t>(a) >> by; });
}

// ---- one tensor

#define VECTOR_UNARY(name, expression)                                                  \
  template <typename T>                                                                 \
  void name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& count, \
            const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {   \
    using namespace v4npu::emulation;                                                   \
    static_assert(kFloating<T>);                                                        \
    unary(#name, dst, src, count, at, [](float a) { return expression; });              \
  }

VECTOR_UNARY(Abs, std::fabs(a))
VECTOR_UNARY(Exp, std::exp(a))
VECTOR_UNARY(Sqrt, std::sqrt(a))
#undef VECTOR_UNARY

// ---- filling

template <typename T>
void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, const int32_t& count,
               const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kOneOf<T, half, bfloat16_t, float, int16_t, uint16_t, int32_t, uint32_t>);
  Op op("Duplicate", Pipe::V, at);
  std::fill_n(op.write(dst, count), count, scalarValue);
}

// On 2201 the scalar unit writes the first block, which the vector unit waits for and goes on from; nothing makes the
// scalar unit wait for vector instructions that came before and may still read or write that block.
template <typename T>
void CreateVecIndex(LocalTensor<T> dst, const T& firstValue, uint32_t count,
                    const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kArithmetic<T>);
  if (kIs2201) {
    Op first("CreateVecIndex", Pipe::S, at);
    first.write(dst, std::min<int64_t>(count, kBlockBytes / sizeof(T)));
    first.core().order(Pipe::S, Pipe::V);
  }
  Op op("CreateVecIndex", Pipe::V, at);
  T* out = op.write(dst, count);
  for (uint32_t i = 0; i < count; ++i) out[i] = static_cast<T>(firstValue + static_cast<T>(i));
}

}  // namespace AscendC
