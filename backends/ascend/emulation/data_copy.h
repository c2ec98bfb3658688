// Copies between global memory and the UB: DataCopy in whole 32-byte blocks, DataCopyPad of any number of bytes.
#pragma once

#include "tensor.h"

namespace AscendC {

// Lengths and strides in blocks of 32 bytes; a stride is the gap between the end of one run and the next.
struct DataCopyParams {
  DataCopyParams() = default;
  DataCopyParams(uint16_t count, uint16_t len, uint16_t srcStrideIn, uint16_t dstStrideIn)
      : blockCount(count), blockLen(len), srcStride(srcStrideIn), dstStride(dstStrideIn) {}
  uint16_t blockCount = 1, blockLen = 0, srcStride = 0, dstStride = 0;
};

// Length in bytes; the stride in bytes on the side of global memory, in blocks of 32 bytes in the UB.
struct DataCopyExtParams {
  using Stride = std::conditional_t<v4npu::emulation::kIs3510, int64_t, uint32_t>;
  DataCopyExtParams() = default;
  DataCopyExtParams(uint16_t count, uint32_t len, Stride srcStrideIn, Stride dstStrideIn, uint32_t rsvIn)
      : blockCount(count), blockLen(len), srcStride(srcStrideIn), dstStride(dstStrideIn), rsv(rsvIn) {}
  uint16_t blockCount = 1;
  uint32_t blockLen = 0;
  Stride srcStride = 0, dstStride = 0;
  uint32_t rsv = 0;
};

template <typename T>
struct DataCopyPadExtParams {
  DataCopyPadExtParams() = default;
  DataCopyPadExtParams(bool isPadValue, uint8_t leftPadValue, uint8_t rightPadValue, T padValue)
      : isPad(isPadValue), leftPadding(leftPadValue), rightPadding(rightPadValue), paddingValue(padValue) {}
  bool isPad = false;
  uint8_t leftPadding = 0, rightPadding = 0;  // elements
  T paddingValue{};
};

}  // namespace AscendC

namespace v4npu::emulation {

constexpr uint32_t kMaxRuns = 4095, kMaxRunBytes = 2097151;  // DataCopyExtParams reference table

inline void check_runs(const Op& op, uint32_t runs, uint32_t bytes, uint64_t element) {
  op.require(runs >= 1 && runs <= kMaxRuns, "blockCount " + std::to_string(runs) + " is not in 1..4095");
  op.require(bytes >= 1 && bytes <= kMaxRunBytes, "blockLen " + std::to_string(bytes) + " is not in 1..2097151");
  op.require(bytes % element == 0, "blockLen " + std::to_string(bytes) + " is not a whole number of elements");
}

template <typename T>
void check_blocks(const Op& op, uint64_t count) {
  op.require(count * sizeof(T) % kBlockBytes == 0,
             "misaligned, " + std::to_string(count * sizeof(T)) + " bytes are not whole blocks of 32");
}

}  // namespace v4npu::emulation

namespace AscendC {

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& params,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  Op op("DataCopy", Pipe::MTE2, at);
  const int64_t bytes = params.blockLen * int64_t{kBlockBytes};
  for (int64_t run = 0; run < params.blockCount; ++run) {
    const uint8_t* source = op.read(src, run * (bytes + params.srcStride * int64_t{kBlockBytes}), bytes);
    const Local<T> to = advanced(dst, run * (bytes + params.dstStride * int64_t{kBlockBytes}));
    std::memcpy(op.write(to, bytes / sizeof(T)), source, bytes);
  }
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  Op op("DataCopy", Pipe::MTE3, at);
  const int64_t bytes = params.blockLen * int64_t{kBlockBytes};
  for (int64_t run = 0; run < params.blockCount; ++run) {
    const Local<T> from = advanced(src, run * (bytes + params.srcStride * int64_t{kBlockBytes}));
    const T* source = op.read(from, bytes / sizeof(T));
    std::memcpy(op.write(dst, run * (bytes + params.dstStride * int64_t{kBlockBytes}), bytes), source, bytes);
  }
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const uint32_t count,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  Op op("DataCopy", Pipe::MTE2, at);
  check_blocks<T>(op, count);
  const uint8_t* source = op.read(src, 0, count * sizeof(T));
  std::memcpy(op.write(dst, count), source, count * sizeof(T));
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t count,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  Op op("DataCopy", Pipe::MTE3, at);
  check_blocks<T>(op, count);
  const T* source = op.read(src, count);
  std::memcpy(op.write(dst, 0, count * sizeof(T)), source, count * sizeof(T));
}

// Within the UB; on 3510 also from there to L1.
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  const bool to_l1 = kIs3510 && space_of(dst.GetPhyAddr()) == Space::L1;
  Op op("DataCopy", to_l1 ? Pipe::MTE3 : Pipe::V, at);
  const int64_t bytes = params.blockLen * int64_t{kBlockBytes};
  for (int64_t run = 0; run < params.blockCount; ++run) {
    const T* source =
        op.read(advanced(src, run * (bytes + params.srcStride * int64_t{kBlockBytes})), bytes / sizeof(T));
    const Local<T> to = advanced(dst, run * (bytes + params.dstStride * int64_t{kBlockBytes}));
    std::memmove(static_cast<void*>(op.write(to, bytes / sizeof(T))), source, bytes);
  }
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t count,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  const bool to_l1 = kIs3510 && space_of(dst.GetPhyAddr()) == Space::L1;
  Op op("DataCopy", to_l1 ? Pipe::MTE3 : Pipe::V, at);
  check_blocks<T>(op, count);
  const T* source = op.read(src, count);
  std::memmove(static_cast<void*>(op.write(dst, count)), source, count * sizeof(T));
}

// Every run is filled up to whole blocks. With padding asked for (isPad and a non-zero count) the filling is the given
// value; else the chip puts something there that no kernel may use.
template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& params,
                 const DataCopyPadExtParams<T>& pad,
                 const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  Op op("DataCopyPad", Pipe::MTE2, at);
  check_runs(op, params.blockCount, params.blockLen, sizeof(T));
  op.require(kIs3510 || dst.GetPosition() != static_cast<int32_t>(TPosition::VECCALC),
             "2201 copies from global memory to VECIN and VECOUT only");
  const uint64_t left = pad.leftPadding * sizeof(T), right = pad.rightPadding * sizeof(T);
  op.require(left <= kBlockBytes && right <= kBlockBytes, "more than 32 bytes of padding on a side");
  const int64_t data = params.blockLen, filled = static_cast<int64_t>(whole_blocks(left + data + right));
  const bool defined = pad.isPad && left + right > 0;
  for (int64_t run = 0; run < params.blockCount; ++run) {
    const uint8_t* source = op.read(src, run * (data + params.srcStride), data);
    const Local<T> to = advanced(dst, run * (filled + params.dstStride * int64_t{kBlockBytes}));
    T* out = op.write(to, filled / sizeof(T));
    std::fill(out, out + filled / sizeof(T), pad.paddingValue);
    std::memcpy(reinterpret_cast<uint8_t*>(out) + left, source, data);
    if (!defined) {
      op.core().poison_local(to.GetPhyAddr(), left);
      op.core().poison_local(to.GetPhyAddr() + left + data, filled - left - data);
    }
  }
}

template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& params,
                 const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  Op op("DataCopyPad", Pipe::MTE3, at);
  check_runs(op, params.blockCount, params.blockLen, sizeof(T));
  const int64_t data = params.blockLen, filled = static_cast<int64_t>(whole_blocks(data));
  for (int64_t run = 0; run < params.blockCount; ++run) {
    const Local<T> from = advanced(src, run * (filled + params.srcStride * int64_t{kBlockBytes}));
    const T* source = op.read(from, data / sizeof(T));
    std::memcpy(op.write(dst, run * (data + params.dstStride), data), source, data);
  }
}

}  // namespace AscendC
