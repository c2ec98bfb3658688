// Register code: between the UB and registers. An address is a pointer made from LocalTensor::GetPhyAddr().
#pragma once

#include "reg.h"

namespace AscendC::Reg {

enum class LoadDist { DIST_NORM, DIST_BRC_B8, DIST_BRC_B32, DIST_UNPACK_B16 };
enum class StoreDist { DIST_NORM, DIST_FIRST_ELEMENT_B8, DIST_FIRST_ELEMENT_B32, DIST_PACK_B32, DIST_PACK4_B32 };

namespace detail {

using v4npu::emulation::kBlockBytes, v4npu::emulation::kVectorBytes, v4npu::emulation::Register;
using v4npu::emulation::RegOp, v4npu::emulation::Unit, v4npu::emulation::Where;

template <typename T>
uint64_t address_of(T* pointer) {
  return reinterpret_cast<uint64_t>(pointer);
}

// `run` bytes of the UB to each `spacing` bytes of the register, whose rest is zero.
inline void load_runs(RegOp& op, Register& dst, uint64_t address, int run, int spacing) {
  uint8_t bytes[kVectorBytes];
  bool known[kVectorBytes];
  const int total = kVectorBytes / spacing * run;
  Register result = RegOp::zeros();
  result.loaded = op.function().load(address, total, kBlockBytes, bytes, known);
  for (int i = 0; i < total; ++i) {
    result.bytes[i / run * spacing + i % run] = bytes[i];
    result.known[i / run * spacing + i % run] = known[i];
  }
  dst = result;
}

// One element to all of them.
inline void load_repeated(RegOp& op, Register& dst, uint64_t address, int width) {
  dst.loaded = op.function().load(address, width, width, dst.bytes, dst.known);
  for (int i = width; i < kVectorBytes; ++i) {
    dst.bytes[i] = dst.bytes[i - width];
    dst.known[i] = dst.known[i - width];
  }
}

// The first `bytes` of every element of `width` whose mask is set, one behind the other; neighbours in one go.
inline void store_elements(RegOp& op, uint64_t address, const Register& src, const v4npu::emulation::Mask& mask,
                           int width, int bytes) {
  op.require(mask.known, "a mask that nothing has set");
  uint8_t data[kVectorBytes];
  int held = 0;
  auto flush = [&](int end) {  // elements end - held .. end
    if (held > 0) op.function().store(address + (end - held) * bytes, data, held * bytes, src.loaded);
    held = 0;
  };
  const int elements = kVectorBytes / width;
  for (int i = 0; i < elements; ++i) {
    if (!mask.bits[i * width]) {
      flush(i);
      continue;
    }
    op.check_known(src, i, width);
    std::copy_n(src.bytes + i * width, bytes, data + held * bytes);
    ++held;
  }
  flush(elements);
}

template <LoadDist dist, typename T>
void load(Register& dst, uint64_t address, const Where& at) {
  RegOp op("Reg::LoadAlign", Unit::Dual, 1, at);
  constexpr int width = sizeof(T);
  if constexpr (dist == LoadDist::DIST_NORM) {
    load_runs(op, dst, address, kVectorBytes, kVectorBytes);
  } else if constexpr (dist == LoadDist::DIST_UNPACK_B16) {
    static_assert(width == 2, "the mode is for another width");
    load_runs(op, dst, address, width, 2 * width);
  } else {
    static_assert(width == (dist == LoadDist::DIST_BRC_B8 ? 1 : 4), "the mode is for another width");
    load_repeated(op, dst, address, width);
  }
}

template <StoreDist dist, typename T>
void store(uint64_t address, const Register& src, const v4npu::emulation::Mask& mask, const Where& at) {
  using enum StoreDist;
  RegOp op("Reg::StoreAlign", Unit::Store, 1, at);
  if constexpr (dist == DIST_FIRST_ELEMENT_B8 || dist == DIST_FIRST_ELEMENT_B32) {
    static_assert(sizeof(T) == (dist == DIST_FIRST_ELEMENT_B8 ? 1 : 4), "the mode is for another width");
    v4npu::emulation::Mask first;
    first.known = first.bits[0] = true;
    op.function().check_alignment(address, sizeof(T));
    store_elements(op, address, src, first, sizeof(T), sizeof(T));
  } else {
    constexpr int width = dist == DIST_NORM ? sizeof(T) : 4;
    constexpr int part = dist == DIST_PACK4_B32 ? 4 : dist == DIST_PACK_B32 ? 2 : 1;
    static_assert(sizeof(T) == width || sizeof(T) * part == width, "the mode is for another width");
    op.function().check_alignment(address, kBlockBytes);
    store_elements(op, address, src, mask, width, width / part);
  }
}

}  // namespace detail

template <typename T = DefaultType, LoadDist dist = LoadDist::DIST_NORM, typename U>
void LoadAlign(U& dstReg, __ubuf__ T* srcAddr, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  detail::load<dist, Element<T, U>>(dstReg, detail::address_of(srcAddr), at);
}

template <typename T = DefaultType, StoreDist dist = StoreDist::DIST_NORM, typename U>
void StoreAlign(__ubuf__ T* dstAddr, U& srcReg, MaskReg& mask,
                const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  detail::store<dist, Element<T, U>>(detail::address_of(dstAddr), srcReg, mask, at);
}

// ---- one by one: element index[i] behind baseAddr

template <typename T0 = DefaultType, typename T1, typename T2 = DefaultType, typename T3, typename T4>
void Gather(T3& dstReg, __ubuf__ T1* baseAddr, T4& index, MaskReg& mask,
            const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  using E = Element<T0, T3>;
  using I = Element<T2, T4>;
  static_assert(std::is_same_v<E, T1>, "widening gathers are not emulated");
  static_assert(std::is_same_v<I, std::conditional_t<sizeof(E) == 2, uint16_t, uint32_t>> && sizeof(E) <= 4);
  RegOp op("Reg::Gather", Unit::Gather, 2, at);
  op.function().check_alignment(detail::address_of(baseAddr), kBlockBytes);
  Register result = RegOp::zeros();
  uint64_t loaded = 0;
  for (int i = 0; i < kVectorLanes<E>; ++i) {
    if (!op.active<E>(mask, i)) continue;
    const uint64_t address = detail::address_of(baseAddr) + uint64_t{op.get<I>(index, i)} * sizeof(E);
    loaded =
        op.function().load(address, sizeof(E), sizeof(E), result.bytes + i * sizeof(E), result.known + i * sizeof(E));
  }
  op.put(dstReg, result);
  dstReg.loaded = std::max(dstReg.loaded, loaded);
}

}  // namespace AscendC::Reg
