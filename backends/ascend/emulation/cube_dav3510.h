// What the cube core of 3510 alone has: loads of parts of a matrix, straight or transposed, a way from L0C to the UB of
// its vector cores, and products of operands with scales (MX).
//
// Every 32 values along k share a scale, a power of two (fp8_e8m0_t). Scales travel in fractals of 32 bytes, 16 rows of
// two scales: they cover 16 rows of 64 values. A fractal after the other along k, then the next 16 rows, in L1 as in
// L0A_MX and L0B_MX; these lie at a sixteenth of the address of the operand (LoadData MX and MmadMx reference pages).
// The copy that makes this of a row-major matrix of scales takes them as pairs, in 16 bits.
#pragma once

#if __NPU_ARCH__ == 3510
#include "cube_transpose.h"

namespace AscendC {

// The transpose of a row-major matrix of dValue rows and nValue columns, srcDValue elements apart, to Nz.
struct Dn2NzParams {
  Dn2NzParams() = default;
  Dn2NzParams(uint16_t dnNumIn, uint16_t nValueIn, uint32_t dValueIn, uint64_t srcDnMatrixStrideIn,
              uint64_t srcDValueIn, uint16_t dstNzC0StrideIn, uint16_t dstNzNStrideIn, uint32_t dstNzMatrixStrideIn)
      : dnNum(dnNumIn),
        nValue(nValueIn),
        dValue(dValueIn),
        srcDnMatrixStride(srcDnMatrixStrideIn),
        srcDValue(srcDValueIn),
        dstNzC0Stride(dstNzC0StrideIn),
        dstNzNStride(dstNzNStrideIn),
        dstNzMatrixStride(dstNzMatrixStrideIn) {}
  uint16_t dnNum = 0, nValue = 0;
  uint32_t dValue = 0;
  uint64_t srcDnMatrixStride = 0, srcDValue = 0;
  uint16_t dstNzC0Stride = 0, dstNzNStride = 0;
  uint32_t dstNzMatrixStride = 0;
};

// mStep x kStep fractals; strides from a column of fractals to the next, in fractals.
struct LoadData2DParamsV2 {
  LoadData2DParamsV2() = default;
  LoadData2DParamsV2(uint32_t mStartPositionIn, uint32_t kStartPositionIn, uint16_t mStepIn, uint16_t kStepIn,
                     int32_t srcStrideIn, uint16_t dstStrideIn, bool ifTransposeIn, uint8_t sidIn)
      : mStartPosition(mStartPositionIn),
        kStartPosition(kStartPositionIn),
        mStep(mStepIn),
        kStep(kStepIn),
        srcStride(srcStrideIn),
        dstStride(dstStrideIn),
        ifTranspose(ifTransposeIn),
        sid(sidIn) {}
  uint32_t mStartPosition = 0, kStartPosition = 0;
  uint16_t mStep = 0, kStep = 0;
  int32_t srcStride = 0;
  uint16_t dstStride = 0;
  bool ifTranspose = false;
  uint8_t sid = 0;
};

// xStep rows of yStep fractals of scales; strides from row to row, in fractals.
struct LoadData2DMxParams {
  LoadData2DMxParams() = default;
  LoadData2DMxParams(uint16_t xStartPositionIn, uint16_t yStartPositionIn, uint8_t xStepIn, uint8_t yStepIn,
                     uint16_t srcStrideIn, uint16_t dstStrideIn)
      : xStartPosition(xStartPositionIn),
        yStartPosition(yStartPositionIn),
        xStep(xStepIn),
        yStep(yStepIn),
        srcStride(srcStrideIn),
        dstStride(dstStrideIn) {}
  uint16_t xStartPosition = 0, yStartPosition = 0;
  uint8_t xStep = 0, yStep = 0;
  uint16_t srcStride = 0, dstStride = 0;
};

}  // namespace AscendC

namespace v4npu::emulation {

constexpr int64_t kScaled = 32;     // values to a scale
constexpr int64_t kScaleRows = 16;  // of a fractal of scales, each of two

// The scales of an operand in L0A or L0B.
template <typename T>
Local<fp8_e8m0_t> scales_of(Core& core, const Local<T>& operand) {
  const Space space = lies_in(operand, Space::L0A) ? Space::L0A_MX : Space::L0B_MX;
  const uint64_t memory = core.whole(space), offset = static_cast<uint32_t>(operand.GetPhyAddr()) / 16;
  return Local<fp8_e8m0_t>(memory + offset, memory + static_cast<uint64_t>(core.capacity(space)),
                           static_cast<AscendC::TPosition>(operand.GetPosition()));
}

// Transposed, dstStride goes from one 32 bytes of the source's rows to the next.
template <typename T>
void move_fractals(Op& op, const Local<T>& dst, const Local<T>& src, const AscendC::LoadData2DParamsV2& params) {
  check_load(op, dst, src);
  op.require(params.mStep > 0 && params.mStep <= 255 && params.kStep > 0 && params.kStep <= 255 && params.srcStride > 0,
             "mStep and kStep must be in 1..255, srcStride positive");
  auto source = [&](int64_t m, int64_t k) {
    return ((params.kStartPosition + k) * params.srcStride + params.mStartPosition + m) * kFractalBytes;
  };
  if (params.ifTranspose) {
    constexpr int64_t kDeep = std::max<int64_t>(kDepth<T> / kFractalRows, 1), kWide = kFractalRows / kDepth<T>;
    op.require(params.mStep % kDeep == 0, "transposed, mStep must be a multiple of " + std::to_string(kDeep));
    op.require(kWide < 2 || params.kStep % 2 == 0, "transposed, kStep must be a multiple of 2");
    transpose(
        op, dst, src, params.mStep * kFractalRows, params.kStep * kDepth<T>,
        [&](int64_t row, int64_t b) {
          return source(row / kFractalRows, b) + row % kFractalRows * int64_t{kBlockBytes};
        },
        [&](int64_t row, int64_t b) {
          return (b * params.dstStride + row / kFractalRows) * kFractalBytes +
                 row % kFractalRows * int64_t{kBlockBytes};
        });
    return;
  }
  for (int64_t k = 0; k < params.kStep; ++k) {
    for (int64_t m = 0; m < params.mStep; ++m) {
      move_fractal(op, advanced(dst, (k * params.dstStride + m) * kFractalBytes), advanced(src, source(m, k)));
    }
  }
}

}  // namespace v4npu::emulation

namespace AscendC {

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Dn2NzParams& params,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kOneOf<T, half, bfloat16_t, int16_t, uint16_t>, "only 16-bit values are emulated");
  Op op("DataCopy", Pipe::MTE2, at);
  op.require(lies_in(dst, Space::L1), "a DN2NZ copy goes to L1");
  op.require(params.dnNum == 1 && params.nValue > 0 && params.dValue > 0, "one matrix that is not empty is emulated");
  check_nz(op, params.nValue, params.dstNzC0Stride, params.dstNzNStride);
  constexpr int64_t kColumns = kBlockBytes / sizeof(T);
  for (int64_t row = 0; row < params.dValue; row += kColumns) {
    const int64_t count = std::min<int64_t>(kColumns, params.dValue - row);
    for (int64_t column = 0; column < params.nValue; ++column) {
      const int64_t blocks = row / kColumns * params.dstNzC0Stride + column * params.dstNzNStride;
      T* out = op.write(advanced(dst, blocks * kBlockBytes), kColumns);
      std::memset(static_cast<void*>(out), 0, kBlockBytes);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t element = (row + i) * static_cast<int64_t>(params.srcDValue) + column;
        std::memcpy(static_cast<void*>(out + i), op.read(src, element * sizeof(T), sizeof(T)), sizeof(T));
      }
    }
  }
}

template <typename T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2DParamsV2& params,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kCubeOperand<T> || kScaledOperand<T>);
  Op op("LoadData", Pipe::MTE1, at);
  move_fractals(op, dst, src, params);
}

// As FixpipeParamsV220; dualDstCtl: 1 gives the vector cores half the rows each, 2 half the columns, 0 all of it to
// subBlockId.
template <CO2Layout format = CO2Layout::ROW_MAJOR>
struct FixpipeParamsArch3510 {
  FixpipeParamsArch3510() = default;
  FixpipeParamsArch3510(uint16_t nSizeIn, uint16_t mSizeIn, uint16_t srcStrideIn, uint32_t dstStrideIn)
      : nSize(nSizeIn), mSize(mSizeIn), srcStride(srcStrideIn), dstStride(dstStrideIn) {}
  uint16_t nSize = 0, mSize = 0, srcStride = 0;
  uint32_t dstStride = 0;
  uint8_t dualDstCtl = 0;
  bool subBlockId = false;
};

// To the UB of one vector core, or of both, at the same address.
template <typename T, typename U, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const LocalTensor<T>& dst, const LocalTensor<U>& src, const FixpipeParamsArch3510<config.format>& params,
             const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<T, float> && std::is_same_v<U, float>, "only fp32 is emulated");
  static_assert(config.format == CO2Layout::ROW_MAJOR && config.isToUB,
                "only the row-major output to the UB is emulated");
  Op op("Fixpipe", Pipe::FIX, at);
  op.require(op.core().mixed(), "the kernel's type runs no vector cores beside the cube core");
  op.require(lies_in(src, Space::L0C) && lies_in(dst, Space::UB), "goes from L0C to the UB");
  op.require(params.dualDstCtl <= 2, "dualDstCtl is 0, 1 or 2");
  op.require(params.mSize > 0 && params.nSize > 0 && params.nSize % 16 == 0, "nSize must be a multiple of 16");
  const bool rows = params.dualDstCtl == 1, columns = params.dualDstCtl == 2;
  op.require(!rows || params.mSize % 2 == 0, "mSize must be even to be halved");
  op.require(!columns || params.nSize % 32 == 0, "nSize must be a multiple of 32 to be halved");
  if (rows || columns) op.to_both_vectors();
  const int64_t height = params.mSize / (rows ? 2 : 1), width = params.nSize / (columns ? 2 : 1);
  for (int64_t m = 0; m < params.mSize; ++m) {
    for (int64_t n = 0; n < params.nSize; n += kFractalRows) {
      const int64_t offset = (n / kFractalRows * params.srcStride + m) * kFractalRows;
      const float* sum = op.read(src[static_cast<uint32_t>(offset)], kFractalRows);
      const int64_t vector = rows ? m / height : columns ? n / width : params.subBlockId;
      const auto element = static_cast<uint32_t>(m % height * params.dstStride + n % width);
      std::copy_n(sum, kFractalRows, op.write_to_vector(static_cast<int>(vector), dst[element], kFractalRows));
    }
  }
}

// An operand and its scales.
template <typename T, typename U = T>
void LoadData(const LocalTensor<U>& dst, const LocalTensor<T>& src, const LocalTensor<fp8_e8m0_t>& srcMx,
              const LoadData2DParamsV2& params, const LoadData2DMxParams& mxParams,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<T, U> && kScaledOperand<T>);
  Op op("LoadData", Pipe::MTE1, at);
  move_fractals(op, dst, src, params);
  op.require(lies_in(srcMx, Space::L1), "scales come from L1");
  op.require(mxParams.xStep > 0 && mxParams.yStep > 0, "no scales");
  const LocalTensor<fp8_e8m0_t> scales = scales_of(op.core(), dst);
  for (int64_t x = 0; x < mxParams.xStep; ++x) {
    for (int64_t y = 0; y < mxParams.yStep; ++y) {
      const int64_t from = (mxParams.xStartPosition + x) * mxParams.srcStride + mxParams.yStartPosition + y;
      const fp8_e8m0_t* data = op.read(advanced(srcMx, from * kBlockBytes), kBlockBytes);
      std::memcpy(op.write(advanced(scales, (x * mxParams.dstStride + y) * kBlockBytes), kBlockBytes), data,
                  kBlockBytes);
    }
  }
}

// Mmad of operands with scales: dst = (fm * its scales) * (filter * its scales), plus dst unless cmatrixInitVal.
template <typename T, typename U, typename S>
void MmadMx(const LocalTensor<T>& dst, const LocalTensor<U>& fm, const LocalTensor<S>& filter, const MmadParams& params,
            const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<T, float> && kScaledOperand<U> && kScaledOperand<S> && kValues<U> == kValues<S>,
                "fp8 goes with fp8 and fp4 with fp4");
  Op op("MmadMx", Pipe::M, at);
  check_product(op, dst, fm, filter, params, kValues<U> == 2 ? kFractalBytes : 2 * kFractalBytes);
  op.require(params.k % (2 * kScaled) == 0, "k is " + std::to_string(params.k) + ", not a multiple of 64");
  op.require(params.m > 1 || params.disableGemv, "one row with scales is emulated with disableGemv only");
  const int64_t pairs = params.k / (2 * kScaled), rows[] = {params.m, params.n};
  const Local<fp8_e8m0_t> memory[] = {scales_of(op.core(), fm), scales_of(op.core(), filter)};
  std::vector<double> scales[2];
  for (int matrix = 0; matrix < 2; ++matrix) {
    scales[matrix].resize(rows[matrix] * 2 * pairs);
    for (int64_t row = 0; row < rows[matrix]; row += kScaleRows) {
      const int64_t height = std::min(kScaleRows, rows[matrix] - row);
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const fp8_e8m0_t* codes =
            op.read(advanced(memory[matrix], (row / kScaleRows * pairs + pair) * kBlockBytes), 2 * height);
        for (int64_t i = 0; i < 2 * height; ++i) {
          scales[matrix][(row + i / 2) * 2 * pairs + 2 * pair + i % 2] = v4npu::e8m0_decode(codes[i].code);
        }
      }
    }
  }
  multiply(op, dst, fm, filter, params,
           [&](int matrix, int64_t row, int64_t k) { return scales[matrix][row * 2 * pairs + k / kScaled]; });
}

}  // namespace AscendC
#endif
