// Register code: what moves elements between places. Histograms, deinterleaving, indices, and the elements that a mask
// picks, packed and stored one behind the other wherever the last ones ended (Squeeze and StoreUnAlign, by the special
// register AR).
#pragma once

#include "reg_compute.h"
#include "reg_copy.h"

namespace AscendC {

enum class SpecialPurposeReg { AR = 0 };

namespace Reg {

enum class HistogramsBinType { BIN0 = 0, BIN1 };
enum class HistogramsType { FREQUENCY = 0, ACCUMULATE };
enum class GatherMaskMode { NO_STORE_REG, STORE_REG };
enum class IndexOrder { INCREASE_ORDER = 0, DECREASE_ORDER };

// Holds back what ends within 32 bytes until the next store or StoreUnAlignPost.
struct UnalignRegForStore {};

// Adds to the counts of the values 0 to 127 (BIN0) or 128 to 255; ACCUMULATE: of all values up to each. That the upper
// half counts the lower one with it: docs/models/deepseek_v4/deepseek_v4_ascendc_operator_guide.md of
// cann-recipes-infer.
template <typename T = DefaultType, typename U = DefaultType, HistogramsBinType mode, HistogramsType type, typename S,
          typename V>
void Histograms(V& dstReg, S& srcReg, MaskReg& mask,
                const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<Element<T, S>, uint8_t> && std::is_same_v<Element<U, V>, uint16_t>);
  RegOp op("Reg::Histograms", Unit::Histogram, 4, at);  // 64 values a cycle
  int counts[256] = {};
  for (int i = 0; i < kVectorBytes; ++i) {
    if (op.active<uint8_t>(mask, i)) ++counts[op.get<uint8_t>(srcReg, i)];
  }
  constexpr int first = mode == HistogramsBinType::BIN0 ? 0 : 128;
  int below = 0;
  for (int value = 0; value < first; ++value) below += counts[value];
  Register result = RegOp::zeros();
  for (int i = 0; i < 128; ++i) {
    below += counts[first + i];
    const int count = op.get<uint16_t>(dstReg, i) + (type == HistogramsType::ACCUMULATE ? below : counts[first + i]);
    op.require(count <= UINT16_MAX, "a count of more than 65535");
    result.set(i, static_cast<uint16_t>(count));
  }
  op.put(dstReg, result);
}

// The even elements of both sources to the first destination, the odd ones to the second.
template <typename T = DefaultType, typename U>
void DeInterleave(U& dstReg0, U& dstReg1, U& srcReg0, U& srcReg1,
                  const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  using E = Element<T, U>;
  constexpr int lanes = kVectorLanes<E>;
  RegOp op("Reg::DeInterleave", Unit::Interleave, 1, at);
  Register results[2] = {RegOp::zeros(), RegOp::zeros()};
  for (int i = 0; i < 2 * lanes; ++i) {
    results[i % 2].set(i / 2, op.get<E>(i < lanes ? srcReg0 : srcReg1, i % lanes));
  }
  op.put(dstReg0, results[0]);
  op.put(dstReg1, results[1]);
}

template <typename T = DefaultType, IndexOrder order = IndexOrder::INCREASE_ORDER, typename U, typename S>
void Arange(S& dstReg, U scalarValue, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  using E = Element<T, S>;
  static_assert(kOneOf<E, int16_t, int32_t> && order == IndexOrder::INCREASE_ORDER, "only rising int16 and int32");
  RegOp op("Reg::Arange", Unit::Dual, 1, at);
  Register result = RegOp::zeros();
  for (int i = 0; i < kVectorLanes<E>; ++i) result.set(i, static_cast<E>(scalarValue + i));
  op.put(dstReg, result);
}

template <SpecialPurposeReg spr>
void ClearSpr(const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  v4npu::emulation::VectorFunction::current("Reg::ClearSpr", at).clear_packed();
}

// The elements that the mask picks, one behind the other, then zeros. STORE_REG: how many goes to AR.
template <typename T = DefaultType, GatherMaskMode store = GatherMaskMode::NO_STORE_REG, typename U>
void Squeeze(U& dstReg, U& srcReg, MaskReg& mask,
             const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  using E = Element<T, U>;
  RegOp op("Reg::Squeeze", Unit::Squeeze, 5, at);  // 51.2 bytes a cycle
  Register result = RegOp::zeros();
  int held = 0;
  for (int i = 0; i < kVectorLanes<E>; ++i) {
    if (op.active<E>(mask, i)) result.set(held++, op.get<E>(srcReg, i));
  }
  if constexpr (store == GatherMaskMode::STORE_REG) op.function().pack(held * int{sizeof(E)});
  op.put(dstReg, result);
}

// What the last Squeeze packed, behind what was packed and stored since AR was cleared.
template <typename T, typename U>
void StoreUnAlign(__ubuf__ T* dstAddr, U& srcReg, UnalignRegForStore&,
                  const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<Element<T, U>, T>);
  RegOp op("Reg::StoreUnAlign", Unit::Store, 1, at);
  const auto [offset, bytes] = op.function().take_packed();
  if (bytes > 0) op.function().store(detail::address_of(dstAddr) + offset, srcReg.bytes, bytes, srcReg.loaded);
}

template <typename T>
void StoreUnAlignPost(__ubuf__ T*, UnalignRegForStore&,
                      const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  RegOp("Reg::StoreUnAlignPost", Unit::Store, 1, at).function().end_packed();
}

}  // namespace Reg
}  // namespace AscendC
