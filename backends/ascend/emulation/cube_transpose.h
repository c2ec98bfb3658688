// Loads from L1 to L0A and L0B that transpose. A fractal holds 16 rows of 32 bytes, so several of them make the square
// that is transposed: 64 x 64 of 4 bits, 32 x 32 of 8, 16 x 16 of 16 and of 32 bits; what comes out are rows of 32
// bytes again (LoadDataWithTranspose and LoadData 2D V2 reference pages, and the examples load_data_l12l0 and
// load_data_2dv2_l12l0 beside them).
#pragma once

#include "cube.h"

namespace AscendC {

// repeatTimes squares, srcStride squares apart; the first fractals of two of them dstGap fractals apart, those of one
// dstFracGap.
struct LoadData2dTransposeParams {
  LoadData2dTransposeParams() = default;
  LoadData2dTransposeParams(uint16_t startIndexIn, uint8_t repeatTimesIn, uint16_t srcStrideIn, uint16_t dstGapIn,
                            uint16_t dstfracGapIn, uint8_t addrModeIn = 0)
      : startIndex(startIndexIn),
        repeatTimes(repeatTimesIn),
        srcStride(srcStrideIn),
        dstGap(dstGapIn),
        dstFracGap(dstfracGapIn),
        addrMode(addrModeIn) {}
  uint16_t startIndex = 0;
  uint8_t repeatTimes = 0;
  uint16_t srcStride = 0, dstGap = 0, dstFracGap = 0;
  uint8_t addrMode = 0;
};

}  // namespace AscendC

namespace v4npu::emulation {

// The transpose of `rows` x `columns` values: from(row, b) is the byte where the b-th 32 of a source row lie, to(row,
// b) the same of the destination. What was never written stays so.
template <typename T, typename From, typename To>
void transpose(Op& op, const Local<T>& dst, const Local<T>& src, int64_t rows, int64_t columns, From from, To to) {
  constexpr int64_t kObjects = kBlockBytes / sizeof(T);  // of 32 bytes
  const int64_t width = columns / kDepth<T>;
  std::vector<uint8_t> bytes(rows * width * kBlockBytes);
  std::vector<bool> written(rows * width);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t b = 0; b < width; ++b) {
      const auto [data, valid] = op.read_unchecked(advanced(src, from(row, b)), kObjects);
      std::memcpy(&bytes[(row * width + b) * kBlockBytes], data, kBlockBytes);
      written[row * width + b] = valid;
    }
  }
  constexpr int64_t kBits = 8 * sizeof(T) / kValues<T>;
  for (int64_t row = 0; row < columns; ++row) {  // of the destination
    for (int64_t b = 0; b < rows / kDepth<T>; ++b) {
      const Local<T> target = advanced(dst, to(row, b));
      const uint64_t alignment = row % kFractalRows == 0 ? kFractalBytes : kBlockBytes;
      auto* out = reinterpret_cast<uint8_t*>(op.write(target, kObjects, alignment));
      uint8_t block[kBlockBytes] = {};
      bool known[kBlockBytes];
      std::fill_n(known, kBlockBytes, true);
      for (int64_t i = 0; i < kDepth<T>; ++i) {
        const int64_t source = (b * kDepth<T> + i) * width + row / kDepth<T>;
        const uint8_t* values = &bytes[source * kBlockBytes];
        if constexpr (kBits < 8) {
          const int64_t at = row % kDepth<T> * kBits;
          block[i * kBits / 8] |= (values[at / 8] >> at % 8 & ((1 << kBits) - 1)) << i * kBits % 8;
        } else {
          std::memcpy(block + i * sizeof(T), values + row % kDepth<T> * sizeof(T), sizeof(T));
        }
        if (!written[source]) std::fill_n(known + i * kBits / 8, std::max<int64_t>(kBits / 8, 1), false);
      }
      std::memcpy(out, block, kBlockBytes);
      for (uint64_t i = 0; i < kBlockBytes; ++i) {
        if (!known[i]) op.core().poison_local(target.GetPhyAddr() + i, 1);
      }
    }
  }
}

}  // namespace v4npu::emulation

namespace AscendC {

template <typename T>
void LoadDataWithTranspose(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                           const LoadData2dTransposeParams& params,
                           const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kOneOf<T, int8_t, uint8_t, half, bfloat16_t, int32_t, uint32_t, float>, "4 bits are not emulated");
  Op op("LoadDataWithTranspose", Pipe::MTE1, at);
  check_load(op, dst, src);
  op.require(kIs2201 || lies_in(dst, Space::L0B), "3510 transposes this way to L0B only");
  op.require(params.repeatTimes > 0, "no squares");
  op.require(params.addrMode == 0, "descending loads are not emulated");
  op.require(sizeof(T) != 2 || params.dstFracGap == 0, "a square of 16 bits is one fractal, dstFracGap means nothing");
  constexpr int64_t kSquare = std::max(kFractalRows, kDepth<T>);
  constexpr int64_t kSquareBytes = kSquare * kSquare * sizeof(T);
  for (int64_t i = 0; i < params.repeatTimes; ++i) {
    const int64_t source = (params.startIndex + i * params.srcStride) * kSquareBytes;
    const int64_t target = i * (params.dstGap + 1) * kFractalBytes, apart = (params.dstFracGap + 1) * kFractalBytes;
    transpose(
        op, dst, src, kSquare, kSquare,
        [&](int64_t row, int64_t b) { return source + b * kFractalBytes + row * int64_t{kBlockBytes}; },
        [&](int64_t row, int64_t b) {
          return target + (row / kFractalRows + b) * apart + row % kFractalRows * int64_t{kBlockBytes};
        });
  }
}

}  // namespace AscendC
