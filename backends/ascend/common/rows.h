// What the row kernels of the vector core share: dealing rows to blocks, widening and rounding, one contiguous copy.
#pragma once

#include "kernel_operator.h"

namespace v4npu {

// The rows [first, last) of this block: contiguous, and no two blocks differ by more than one row.
struct BlockRows {
  int64_t first, last;

  __aicore__ inline explicit BlockRows(int64_t num_rows) {
    const int64_t blocks = AscendC::GetBlockNum(), block = AscendC::GetBlockIdx();
    first = num_rows / blocks * block + min_of(block, num_rows % blocks);
    last = first + num_rows / blocks + (block < num_rows % blocks ? 1 : 0);
  }

 private:
  static __aicore__ inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
};

// Copy parameters of `count` contiguous elements; the tail of the last 32-byte block is left undefined.
template <typename T>
__aicore__ inline AscendC::DataCopyExtParams one_run(int64_t count) {
  return AscendC::DataCopyExtParams(1, static_cast<uint32_t>(count * sizeof(T)), 0, 0, 0);
}

// Lets the event's second pipe see what the first one has done.
template <AscendC::HardEvent kEvent>
__aicore__ inline void pass(AscendC::TPipe& pipe) {
  const AscendC::TEventID id = pipe.FetchEventID(kEvent);
  AscendC::SetFlag<kEvent>(id);
  AscendC::WaitFlag<kEvent>(id);
}

// Conversions of a scalar to bfloat16_t differ between compilers; all types agree on what zero bits mean.
template <typename T>
__aicore__ inline T zero() {
  return T{};
}

// To fp32, exactly. 2201 has no plain copy of a partial block, hence the product with one.
template <typename T>
__aicore__ inline void widen(const AscendC::LocalTensor<float>& dst, const AscendC::LocalTensor<T>& src,
                             int32_t count) {
  AscendC::Cast(dst, src, AscendC::RoundMode::CAST_NONE, count);
}
__aicore__ inline void widen(const AscendC::LocalTensor<float>& dst, const AscendC::LocalTensor<float>& src,
                             int32_t count) {
  AscendC::Muls(dst, src, 1.0f, count);
}

// From fp32, to nearest even.
template <typename T>
__aicore__ inline void narrow(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<float>& src,
                              int32_t count) {
  AscendC::Cast(dst, src, AscendC::RoundMode::CAST_RINT, count);
}
__aicore__ inline void narrow(const AscendC::LocalTensor<float>& dst, const AscendC::LocalTensor<float>& src,
                              int32_t count) {
  AscendC::Muls(dst, src, 1.0f, count);
}

}  // namespace v4npu
