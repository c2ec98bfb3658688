// Cast, for the pairs of types that 2201 and 3510 share, with the rounding modes both list.
#pragma once

#include <cmath>
#include <limits>

#include "tensor.h"

namespace v4npu::emulation {

using AscendC::RoundMode;

inline float rounded(float x, RoundMode mode) {
  switch (mode) {
    case RoundMode::CAST_NONE:
    case RoundMode::CAST_RINT: return std::nearbyint(x);
    case RoundMode::CAST_FLOOR: return std::floor(x);
    case RoundMode::CAST_CEIL: return std::ceil(x);
    case RoundMode::CAST_ROUND: return std::round(x);
    case RoundMode::CAST_TRUNC: return std::trunc(x);
    case RoundMode::UNKNOWN: break;
  }
  return x;
}

// A value the destination cannot hold saturates or wraps, by a mode register: no kernel should rely on either.
template <typename To, typename From>
To fitting(const Op& op, From x) {
  const bool fits = x >= static_cast<From>(std::numeric_limits<To>::min()) &&
                    static_cast<double>(x) <= static_cast<double>(std::numeric_limits<To>::max());
  if (!fits) op.require(false, "value " + std::to_string(x) + " does not fit the destination type");
  return static_cast<To>(x);
}

template <typename To, typename From>
struct CastRule {
  static constexpr bool supported = false;
};

// The mode must be one that both architectures list for the pair: kExact pairs take CAST_NONE alone.
enum class Rounding { kExact, kNearestOnly, kAnyMode };

template <Rounding r>
struct Supported {
  static constexpr bool supported = true;
  static constexpr Rounding rounding = r;
};

template <>
struct CastRule<float, half> : Supported<Rounding::kExact> {
  static float apply(const Op&, half x, RoundMode) { return x; }
};
template <>
struct CastRule<float, bfloat16_t> : Supported<Rounding::kExact> {
  static float apply(const Op&, bfloat16_t x, RoundMode) { return x; }
};
template <>
struct CastRule<half, float> : Supported<Rounding::kNearestOnly> {
  static half apply(const Op&, float x, RoundMode) { return half(x); }
};
template <>
struct CastRule<bfloat16_t, float> : Supported<Rounding::kNearestOnly> {
  static bfloat16_t apply(const Op&, float x, RoundMode) { return bfloat16_t(x); }
};
template <>
struct CastRule<float, float> : Supported<Rounding::kAnyMode> {  // to a whole number
  static float apply(const Op&, float x, RoundMode mode) { return rounded(x, mode); }
};
template <>
struct CastRule<float, int32_t> : Supported<Rounding::kNearestOnly> {
  static float apply(const Op&, int32_t x, RoundMode) { return static_cast<float>(x); }
};
template <>
struct CastRule<int16_t, int32_t> : Supported<Rounding::kExact> {
  static int16_t apply(const Op& op, int32_t x, RoundMode) { return fitting<int16_t>(op, x); }
};
template <>
struct CastRule<half, int16_t> : Supported<Rounding::kNearestOnly> {
  static half apply(const Op&, int16_t x, RoundMode) { return half(static_cast<float>(x)); }
};
template <>
struct CastRule<half, uint8_t> : Supported<Rounding::kExact> {
  static half apply(const Op&, uint8_t x, RoundMode) { return half(static_cast<float>(x)); }
};
template <>
struct CastRule<int32_t, half> : Supported<Rounding::kAnyMode> {
  static int32_t apply(const Op& op, half x, RoundMode mode) { return fitting<int32_t>(op, rounded(x, mode)); }
};
template <>
struct CastRule<uint8_t, half> : Supported<Rounding::kAnyMode> {
  static uint8_t apply(const Op& op, half x, RoundMode mode) { return fitting<uint8_t>(op, rounded(x, mode)); }
};

}  // namespace v4npu::emulation

namespace AscendC {

template <typename T, typename U>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& roundMode, const uint32_t count,
          const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  using Rule = CastRule<T, U>;
  static_assert(Rule::supported, "this pair of types is not in the dialect");
  Op op("Cast", Pipe::V, at);
  if constexpr (Rule::rounding == Rounding::kExact) {
    op.require(roundMode == RoundMode::CAST_NONE, "this pair of types takes CAST_NONE only");
  } else if constexpr (Rule::rounding == Rounding::kNearestOnly) {
    op.require(roundMode == RoundMode::CAST_RINT, "this pair of types is emulated for CAST_RINT only");
  } else {
    op.require(roundMode != RoundMode::CAST_NONE, "3510 does not take CAST_NONE for this pair of types");
  }
  const U* a = op.read(src, count);
  T* out = op.write(dst, count);
  // In place, a widening cast would overwrite what it has yet to read.
  op.require(sizeof(T) <= sizeof(U) || dst.GetPhyAddr() != src.GetPhyAddr(), "a widening cast in place");
  for (uint32_t i = 0; i < count; ++i) out[i] = Rule::apply(op, a[i], roundMode);
}

}  // namespace AscendC
