// Register code: Cast. Narrow elements lie one to each wide one, at the place that the layout names; the rest is zero.
//
// Each pair of types says which fields of the CastTrait its reference page wants set. Saturation depends on a control
// register beside the trait (reference page, table 5), so a value that the destination cannot hold is refused.
#pragma once

#include "reg_compute.h"
#include "vector_cast.h"

namespace AscendC::Reg {

enum class RegLayout { UNKNOWN = -1, ZERO, ONE, TWO, THREE };
enum class SatMode { UNKNOWN = -1, NO_SAT, SAT };

struct CastTrait {
  RegLayout layoutMode = RegLayout::UNKNOWN;
  SatMode satMode = SatMode::UNKNOWN;
  MaskMergeMode mrgMode = MaskMergeMode::UNKNOWN;
  RoundMode roundMode = RoundMode::UNKNOWN;
};
inline constexpr CastTrait castTrait = {};

namespace detail {

// saturates, rounds: whether the trait's fields must be set. cycles [reg].
template <bool saturates_, bool rounds_, int cycles_>
struct RegCastTraits {
  static constexpr bool supported = true, saturates = saturates_, rounds = rounds_;
  static constexpr double cycles = cycles_;
};

template <typename To, typename From>
struct RegCast {
  static constexpr bool supported = false;
};
template <>
struct RegCast<float, half> : RegCastTraits<false, false, 1> {
  static float apply(const RegOp&, half x) { return x; }
};
template <>
struct RegCast<float, bfloat16_t> : RegCastTraits<false, false, 1> {
  static float apply(const RegOp&, bfloat16_t x) { return x; }
};
template <>
struct RegCast<bfloat16_t, float> : RegCastTraits<true, true, 1> {
  static bfloat16_t apply(const RegOp& op, float x) {
    const bfloat16_t result(x);
    op.require(std::isfinite(static_cast<float>(result)), "a value that bfloat16_t cannot hold");
    return result;
  }
};
template <>
struct RegCast<fp8_e4m3fn_t, float> : RegCastTraits<true, true, 2> {
  static fp8_e4m3fn_t apply(const RegOp& op, float x) {
    op.require(std::fabs(x) < 464, "a value that fp8_e4m3fn_t cannot hold");  // from there on it rounds beyond 448
    return {v4npu::e4m3_encode(x)};
  }
};
}  // namespace detail

template <typename T = DefaultType, typename U = DefaultType, const CastTrait& trait = castTrait, typename S,
          typename V>
void Cast(S& dstReg, V& srcReg, MaskReg& mask, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using To = Element<T, S>;
  using From = Element<U, V>;
  using Rule = detail::RegCast<To, From>;
  static_assert(Rule::supported, "this pair of types is not in the dialect");
  constexpr int to = sizeof(To), from = sizeof(From);
  constexpr int wide = std::max(to, from), narrow = std::min(to, from), place = static_cast<int>(trait.layoutMode);
  static_assert(wide == narrow ? trait.layoutMode == RegLayout::UNKNOWN : place >= 0 && place < wide / narrow,
                "the layout does not fit the widths");
  static_assert((trait.satMode != SatMode::UNKNOWN) == Rule::saturates, "this pair wants the saturation set or not");
  static_assert(trait.roundMode == (Rule::rounds ? RoundMode::CAST_RINT : RoundMode::UNKNOWN),
                "this pair takes another rounding mode, or is emulated for CAST_RINT only");
  static_assert(trait.mrgMode == MaskMergeMode::ZEROING, "only ZEROING");
  detail::RegOp op("Reg::Cast", detail::Unit::Dual, Rule::cycles, at);
  detail::Register result = detail::RegOp::zeros();
  for (int i = 0; i < detail::kVectorBytes / wide; ++i) {
    const int source = from == wide ? i : i * (wide / narrow) + place;
    const int target = to == wide ? i : i * (wide / narrow) + place;
    if (op.active<From>(mask, source)) result.set(target, Rule::apply(op, op.get<From>(srcReg, source)));
  }
  op.put(dstReg, result);
}

}  // namespace AscendC::Reg
