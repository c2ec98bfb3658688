// Register code: arithmetic, comparison, selection, reduction. Results are those of vector.h; what a mask leaves out is
// zero (MaskMergeMode::ZEROING, the only mode).
#pragma once

#include <cmath>

#include "reg.h"
#include "vector.h"

namespace AscendC {

enum class ReduceType { SUM = 0, MAX };

namespace Reg {

namespace detail {

using v4npu::emulation::kOneOf, v4npu::emulation::kVectorBytes, v4npu::emulation::kVectorLanes;
using v4npu::emulation::Register, v4npu::emulation::RegOp, v4npu::emulation::Unit, v4npu::emulation::Where;
using v4npu::emulation::Wide;

// Cycles of a register [reg]: integers add and multiply at half the rate.
template <typename T>
constexpr double kArithmeticCycles = std::is_integral_v<T> ? 2 : 1;
// 16 elements a cycle.
template <typename T>
constexpr double kRootCycles = kVectorLanes<T> / 16;

template <typename E, MaskMergeMode mode, typename F>
void unary(const char* name, double cycles, Register& dst, const Register& src, const MaskReg& mask, const Where& at,
           F function) {
  static_assert(mode == MaskMergeMode::ZEROING, "MERGING is not emulated");
  RegOp op(name, Unit::Dual, cycles, at);
  Register result = RegOp::zeros();
  for (int i = 0; i < kVectorLanes<E>; ++i) {
    if (op.active<E>(mask, i)) result.set(i, static_cast<E>(function(op.get<E>(src, i))));
  }
  op.put(dst, result);
}

template <typename E, MaskMergeMode mode, typename F>
void binary(const char* name, double cycles, Register& dst, const Register& src0, const Register& src1,
            const MaskReg& mask, const Where& at, F function) {
  static_assert(mode == MaskMergeMode::ZEROING, "MERGING is not emulated");
  RegOp op(name, Unit::Dual, cycles, at);
  Register result = RegOp::zeros();
  for (int i = 0; i < kVectorLanes<E>; ++i) {
    if (op.active<E>(mask, i)) result.set(i, static_cast<E>(function(op.get<E>(src0, i), op.get<E>(src1, i))));
  }
  op.put(dst, result);
}

template <typename T>
bool compare(CMPMODE mode, T a, T b) {
  const bool results[] = {a<b, a> b, a == b, a <= b, a >= b, a != b};  // in the order of CMPMODE
  return results[static_cast<int>(mode)];
}

template <typename T>
constexpr bool kNumber = kOneOf<T, int16_t, uint16_t, half, int32_t, uint32_t, float>;
template <typename T>
constexpr bool kWhole = kOneOf<T, int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t>;

}  // namespace detail

// ---- two registers a and b, as W

#define REG_BINARY(name, cycles, W, expression, types)                                         \
  template <typename T = DefaultType, MaskMergeMode mode = MaskMergeMode::ZEROING, typename U> \
  void name(U& dstReg, U& srcReg0, U& srcReg1, MaskReg& mask,                                  \
            const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {          \
    using namespace detail;                                                                    \
    using E = Element<T, U>;                                                                   \
    static_assert(types<E>);                                                                   \
    binary<E, mode>("Reg::" #name, cycles, dstReg, srcReg0, srcReg1, mask, at,                 \
                    [](W a, W b) -> W { return expression; });                                 \
  }

REG_BINARY(Add, kArithmeticCycles<E>, Wide<E>, a + b, kNumber)
REG_BINARY(Sub, kArithmeticCycles<E>, Wide<E>, a - b, kNumber)
REG_BINARY(Mul, kArithmeticCycles<E>, Wide<E>, a* b, kNumber)
REG_BINARY(Div, kRootCycles<E>, float, a / b, v4npu::emulation::kFloating)
REG_BINARY(Max, 1, E, a > b ? a : b, kNumber)
REG_BINARY(And, 1, E, a& b, kWhole)
REG_BINARY(Or, 1, E, a | b, kWhole)
REG_BINARY(Xor, 1, E, a ^ b, kWhole)
#undef REG_BINARY

// ---- a register a and a scalar b, as W

#define REG_SCALAR(name, cycles, W, expression)                                                            \
  template <typename T = DefaultType, typename U, MaskMergeMode mode = MaskMergeMode::ZEROING, typename S> \
  void name(S& dstReg, S& srcReg, U scalarValue, MaskReg& mask,                                            \
            const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {                      \
    using namespace detail;                                                                                \
    using E = Element<T, S>;                                                                               \
    static_assert(kNumber<E>);                                                                             \
    const W b = static_cast<E>(scalarValue);                                                               \
    unary<E, mode>("Reg::" #name, cycles, dstReg, srcReg, mask, at, [b](W a) -> W { return expression; }); \
  }

REG_SCALAR(Adds, kArithmeticCycles<E>, Wide<E>, a + b)
REG_SCALAR(Muls, kArithmeticCycles<E>, Wide<E>, a* b)
REG_SCALAR(Maxs, 1, E, a > b ? a : b)
REG_SCALAR(Mins, 1, E, a < b ? a : b)
#undef REG_SCALAR

// Unsigned only, as in vector.h. By more bits than there are: zero.
template <typename T = DefaultType, typename U, MaskMergeMode mode = MaskMergeMode::ZEROING, typename S>
void ShiftLefts(S& dstReg, S& srcReg, U scalarValue, MaskReg& mask,
                const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using E = Element<T, S>;
  static_assert(detail::kWhole<E> && std::is_unsigned_v<E> && std::is_same_v<U, int16_t>);
  const int by = scalarValue;
  detail::unary<E, mode>("Reg::ShiftLefts", 1, dstReg, srcReg, mask, at,
                         [by](E a) -> E { return by < int{8 * sizeof(E)} ? static_cast<E>(uint64_t{a} << by) : E{0}; });
}

// Arithmetic for signed types, logical for unsigned ones.
template <typename T = DefaultType, typename U, MaskMergeMode mode = MaskMergeMode::ZEROING, typename S>
void ShiftRights(S& dstReg, S& srcReg, U scalarValue, MaskReg& mask,
                 const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using E = Element<T, S>;
  static_assert(detail::kWhole<E> && std::is_same_v<U, int16_t>);
  const int by = std::min<int>(scalarValue, 63);
  detail::unary<E, mode>("Reg::ShiftRights", 1, dstReg, srcReg, mask, at,
                         [by](E a) { return static_cast<int64_t>(a) >> by; });
}

// ---- one register

template <typename T = DefaultType, MaskMergeMode mode = MaskMergeMode::ZEROING, typename U>
void Exp(U& dstReg, U& srcReg, MaskReg& mask, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using E = Element<T, U>;
  static_assert(v4npu::emulation::kFloating<E>);
  detail::unary<E, mode>("Reg::Exp", detail::kRootCycles<E>, dstReg, srcReg, mask, at,
                         [](float a) { return std::exp(a); });
}

// ---- filling

template <typename T = DefaultType, typename U, typename S>
void Duplicate(S& dstReg, U scalarValue, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using E = Element<T, S>;
  static_assert(std::is_arithmetic_v<U> || std::is_same_v<U, E>);
  detail::RegOp op("Reg::Duplicate", detail::Unit::Dual, 1, at);
  detail::Register result = detail::RegOp::zeros();
  for (int i = 0; i < detail::kVectorLanes<E>; ++i) result.set(i, static_cast<E>(scalarValue));
  op.put(dstReg, result);
}

template <typename T = DefaultType, MaskMergeMode mode = MaskMergeMode::ZEROING, typename U, typename S>
void Duplicate(S& dstReg, U scalarValue, MaskReg& mask,
               const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using E = Element<T, S>;
  static_assert(mode == MaskMergeMode::ZEROING, "MERGING is not emulated");
  static_assert(std::is_arithmetic_v<U> || std::is_same_v<U, E>);
  detail::RegOp op("Reg::Duplicate", detail::Unit::Dual, 1, at);
  detail::Register result = detail::RegOp::zeros();
  for (int i = 0; i < detail::kVectorLanes<E>; ++i) {
    if (op.active<E>(mask, i)) result.set(i, static_cast<E>(scalarValue));
  }
  op.put(dstReg, result);
}

// ---- comparison, and masks

template <typename T = DefaultType, CMPMODE mode = CMPMODE::EQ, typename U>
void Compare(MaskReg& dst, U& srcReg0, U& srcReg1, MaskReg& mask,
             const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using E = Element<T, U>;
  static_assert(detail::kNumber<E> || detail::kWhole<E>);
  detail::RegOp op("Reg::Compare", detail::Unit::Dual, 1, at);
  MaskReg result;
  result.known = true;
  for (int i = 0; i < detail::kVectorLanes<E>; ++i) {
    result.bits[i * sizeof(E)] =
        op.active<E>(mask, i) && detail::compare<E>(mode, op.get<E>(srcReg0, i), op.get<E>(srcReg1, i));
  }
  dst = result;
}

inline void And(MaskReg& dst, MaskReg& src0, MaskReg& src1, MaskReg& mask,
                const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  detail::RegOp op("Reg::And", detail::Unit::Dual, 1, at);
  MaskReg result;
  result.known = true;
  for (int i = 0; i < detail::kVectorBytes; ++i) {
    result.bits[i] = op.active<uint8_t>(mask, i) && op.active<uint8_t>(src0, i) && op.active<uint8_t>(src1, i);
  }
  dst = result;
}

template <typename T = DefaultType, CMPMODE mode = CMPMODE::EQ, typename U, typename S>
void Compares(MaskReg& dst, U& srcReg, S scalarValue, MaskReg& mask,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using E = Element<T, U>;
  static_assert(detail::kNumber<E>);
  detail::RegOp op("Reg::Compares", detail::Unit::Dual, 1, at);
  MaskReg result;
  result.known = true;
  for (int i = 0; i < detail::kVectorLanes<E>; ++i) {
    result.bits[i * sizeof(E)] =
        op.active<E>(mask, i) && detail::compare<E>(mode, op.get<E>(srcReg, i), static_cast<E>(scalarValue));
  }
  dst = result;
}

// ---- reduction: to the first element; of MAX the second is the index, as bits

template <ReduceType type = ReduceType::SUM, typename T = DefaultType, typename U = DefaultType,
          MaskMergeMode mode = MaskMergeMode::ZEROING, typename S, typename V>
void Reduce(S& dstReg, V srcReg, MaskReg mask, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using E = Element<U, V>;
  static_assert(mode == MaskMergeMode::ZEROING, "MERGING is not emulated");
  static_assert(std::is_same_v<Element<T, S>, E> && detail::kOneOf<E, float, int32_t, uint32_t>,
                "only float and 32-bit integers are emulated");
  constexpr int lanes = detail::kVectorLanes<E>;
  detail::RegOp op("Reg::Reduce", detail::Unit::Reduce, 1, at);
  detail::Register result = detail::RegOp::zeros();
  if constexpr (type == ReduceType::SUM) {
    detail::Wide<E> sum[lanes] = {};  // a binary tree over neighbours (reference page)
    for (int i = 0; i < lanes; ++i) {
      if (op.active<E>(mask, i)) sum[i] = op.get<E>(srcReg, i);
    }
    for (int width = lanes; width > 1; width /= 2) {
      for (int i = 0; i < width / 2; ++i) sum[i] = sum[2 * i] + sum[2 * i + 1];
    }
    result.set(0, static_cast<E>(sum[0]));
  } else {
    int best = -1;
    for (int i = 0; i < lanes; ++i) {
      if (!op.active<E>(mask, i)) continue;
      const E value = op.get<E>(srcReg, i);
      op.require(value == value, "a NaN");  // the first one would win; no kernel needs it
      if (best < 0 || value > op.get<E>(srcReg, best)) best = i;
    }
    op.require(best >= 0, "an empty mask");
    result.set(0, op.get<E>(srcReg, best));
    result.set(1, static_cast<uint32_t>(best));
  }
  op.put(dstReg, result);
}

}  // namespace Reg
}  // namespace AscendC
