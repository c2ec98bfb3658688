// The cube core: GM -> L1 -> L0A and L0B -> Mmad -> L0C -> GM, with the fractal layouts of both architectures.
//
// A fractal is 512 bytes: 16 rows of 32. Matrices in fractals, capital letter first the order of the fractals, small
// letter that within one (Mmad and LoadData reference pages):
//   L1         Nz      column of fractals after column, rows within; what the ND2NZ copy makes
//   L0A        Zz on 2201, Nz on 3510
//   L0B        Zn      of the K x N operand: the same bytes as Nz of its transpose N x K
//   L0C        Nz      fractals of 16 x 16 fp32, 1024 bytes
// Emulated for half, bf16 and float operands, and on 3510 for fp8, with fp32 sums; operands with scales are in
// cube_dav3510.h, loads that transpose in cube_transpose.h.
// The order in which a dot product is summed is not documented; here it is k upwards.
#pragma once

#include <bit>

#include "tensor.h"

enum QuantMode_t { NoQuant, F322F16, F322BF16 };  // of Fixpipe: what fp32 becomes on the way out

namespace AscendC {

// One row-major matrix of nValue rows and dValue columns, srcDValue elements apart, to Nz; the 32 bytes that end a row
// are filled with zeros. Strides of the destination in units of 32 bytes.
struct Nd2NzParams {
  using Wide = std::conditional_t<v4npu::emulation::kIs3510, uint64_t, uint16_t>;
  using Count = std::conditional_t<v4npu::emulation::kIs3510, uint32_t, uint16_t>;
  Nd2NzParams() = default;
  Nd2NzParams(uint16_t ndNumIn, uint16_t nValueIn, Count dValueIn, Wide srcNdMatrixStrideIn, Wide srcDValueIn,
              uint16_t dstNzC0StrideIn, uint16_t dstNzNStrideIn, Count dstNzMatrixStrideIn)
      : ndNum(ndNumIn),
        nValue(nValueIn),
        dValue(dValueIn),
        srcNdMatrixStride(srcNdMatrixStrideIn),
        srcDValue(srcDValueIn),
        dstNzC0Stride(dstNzC0StrideIn),
        dstNzNStride(dstNzNStrideIn),
        dstNzMatrixStride(dstNzMatrixStrideIn) {}
  uint16_t ndNum = 0, nValue = 0;
  Count dValue = 0;
  Wide srcNdMatrixStride = 0, srcDValue = 0;
  uint16_t dstNzC0Stride = 0, dstNzNStride = 0;
  Count dstNzMatrixStride = 0;
};

// repeatTimes fractals, srcStride fractals apart in L1.
struct LoadData2DParams {
  LoadData2DParams() = default;
  LoadData2DParams(uint16_t startIndexIn, uint8_t repeatTimesIn, uint16_t srcStrideIn, uint8_t sidIn, uint16_t dstGapIn,
                   bool ifTransposeIn, uint8_t addrModeIn)
      : startIndex(startIndexIn),
        dstGap(dstGapIn),
        srcStride(srcStrideIn),
        ifTranspose(ifTransposeIn),
        repeatTimes(repeatTimesIn),
        sid(sidIn),
        addrMode(addrModeIn) {}
  uint16_t startIndex = 0, dstGap = 0, srcStride = 0;
  bool ifTranspose = false;
  uint8_t repeatTimes = 0, sid = 0, addrMode = 0;
};

struct MmadParams {
  MmadParams() = default;
  MmadParams(uint16_t mIn, uint16_t nIn, uint16_t kIn, uint8_t unitFlagIn, bool cmatrixSourceIn, bool cmatrixInitValIn)
      : m(mIn),
        n(nIn),
        k(kIn),
        unitFlag(unitFlagIn),
        cmatrixSource(cmatrixSourceIn),
        cmatrixInitVal(cmatrixInitValIn) {}
  uint16_t m = 0, n = 0, k = 0;
  uint8_t unitFlag = 0;
  bool cmatrixSource = false, cmatrixInitVal = true;
#if __NPU_ARCH__ == 3510
  bool disableGemv = false;
#endif
};

// To a row-major matrix: srcStride in rows of a fractal (64 bytes), dstStride in elements.
struct FixpipeParamsV220 {
  FixpipeParamsV220() = default;
  FixpipeParamsV220(uint16_t nSizeIn, uint16_t mSizeIn, uint16_t srcStrideIn, uint32_t dstStrideIn, bool reluEnIn)
      : nSize(nSizeIn), mSize(mSizeIn), srcStride(srcStrideIn), dstStride(dstStrideIn), reluEn(reluEnIn) {}
  uint16_t nSize = 0, mSize = 0, srcStride = 0;
  uint32_t dstStride = 0;
  QuantMode_t quantPre = QuantMode_t::NoQuant;
  bool reluEn = false;
};

}  // namespace AscendC

namespace v4npu::emulation {

constexpr int64_t kFractalRows = 16;
constexpr int64_t kFractalBytes = 512;
constexpr int64_t kSumBytes = 1024;  // a fractal of L0C
constexpr int64_t fractals(int64_t size, int64_t per_fractal) { return (size + per_fractal - 1) / per_fractal; }
constexpr int64_t rows_in(int64_t fractal, int64_t size) {
  return std::min(kFractalRows, size - fractal * kFractalRows);
}

#if __NPU_ARCH__ == 3510
template <typename T>
constexpr bool kFp8Operand = kOneOf<T, fp8_e4m3fn_t, fp8_e5m2_t>;
template <typename T>
constexpr bool kScaledOperand = kFp8Operand<T> || std::is_same_v<T, fp4x2_e2m1_t>;
#else
template <typename T>
constexpr bool kFp8Operand = false;
template <typename T>
constexpr bool kScaledOperand = false;
#endif
template <typename T>
constexpr bool kCubeOperand = kOneOf<T, half, bfloat16_t, float> || kFp8Operand<T>;

// Values in the 32 bytes of a row of a fractal: the depth of the fractal.
template <typename T>
constexpr int64_t kDepth = kBlockBytes / sizeof(T) * kValues<T>;

// Cycles to multiply two fractals: of float, 8 deep, 4 (2201) or 1 (3510) of them at a time (the documentation's
// appendix "theoretical performance of cube instructions"); of anything else, all.
template <typename T>
constexpr int64_t kProductCycles = std::is_same_v<T, float> ? (kIs2201 ? 2 : 8) : 1;

// Value k of a row of a fractal.
template <typename T>
double operand(const T* row, int64_t k) {
#if __NPU_ARCH__ == 3510
  if constexpr (std::is_same_v<T, fp8_e4m3fn_t>) {
    return e4m3_decode(row[k].code);
  } else if constexpr (std::is_same_v<T, fp8_e5m2_t>) {  // the upper byte of an fp16
    return static_cast<double>(std::bit_cast<_Float16>(static_cast<uint16_t>(row[k].code << 8)));
  } else if constexpr (std::is_same_v<T, fp4x2_e2m1_t>) {
    return e2m1_decode(e2m1_unpack(row[k / 2].code, static_cast<int>(k)));
  } else
#endif
    return float{row[k]};
}

template <typename T>
bool lies_in(const Local<T>& tensor, Space space) {
  return space_of(tensor.GetPhyAddr()) == space;
}

// Whole fractals move, whatever they hold: rows that were never written stay so.
template <typename T>
void move_fractal(Op& op, const Local<T>& to, const Local<T>& from) {
  for (int64_t row = 0; row < kFractalRows; ++row) {
    const Local<T> source = advanced(from, row * kBlockBytes), target = advanced(to, row * kBlockBytes);
    const auto [data, valid] = op.read_unchecked(source, kBlockBytes / sizeof(T));
    const uint64_t alignment = row == 0 ? kFractalBytes : kBlockBytes;
    std::memcpy(op.write(target, kBlockBytes / sizeof(T), alignment), data, kBlockBytes);
    if (!valid) op.core().poison_local(target.GetPhyAddr(), kBlockBytes);
  }
}

// Of the copies to Nz (their reference pages).
constexpr int64_t kMaxNz = 16384, kMaxNdColumns = 65535;
inline void check_nz(const Op& op, int64_t rows, int64_t column_stride, int64_t row_stride) {
  op.require(column_stride >= 1 && row_stride >= 1, "destination strides start at 1");
  op.require(std::max({rows, column_stride, row_stride}) <= kMaxNz, "nValue and destination strides end at 16384");
}

template <typename T>
void check_load(const Op& op, const Local<T>& dst, const Local<T>& src) {
  op.require(lies_in(src, Space::L1) && (lies_in(dst, Space::L0A) || lies_in(dst, Space::L0B)),
             "goes from L1 to L0A or L0B");
}

template <typename U, typename S>
void check_product(const Op& op, const Local<float>& dst, const Local<U>& fm, const Local<S>& filter,
                   const AscendC::MmadParams& params, uint64_t alignment) {
  op.require(lies_in(dst, Space::L0C) && lies_in(fm, Space::L0A) && lies_in(filter, Space::L0B),
             "takes L0A and L0B to L0C");
  op.require(params.m > 0 && params.n > 0 && params.k > 0, "an empty product");
  op.require(params.unitFlag == 0 && !params.cmatrixSource, "unitFlag and cmatrixSource are not emulated");
  op.require(
      dst.GetPhyAddr() % kSumBytes == 0 && fm.GetPhyAddr() % alignment == 0 && filter.GetPhyAddr() % alignment == 0,
      "misaligned, L0A and L0B want " + std::to_string(alignment) + " bytes, L0C 1024");
}

// What every form of Mmad does. scale(matrix, row, k): what value k of a row of fm (0) or of a column of filter (1) is
// multiplied by.
template <typename U, typename S, typename Scale>
void multiply(Op& op, const Local<float>& dst, const Local<U>& fm, const Local<S>& filter,
              const AscendC::MmadParams& params, Scale scale) {
  bool vector = params.m == 1;  // then fm is one row of values without gaps (GEMV reference page)
#if __NPU_ARCH__ == 3510
  vector = vector && !params.disableGemv;
#endif
  const int64_t rows = fractals(params.m, kFractalRows), columns = fractals(params.n, kFractalRows);
  const int64_t depth = fractals(params.k, kDepth<U>);
  op.multiply(rows * columns * depth * kProductCycles<U>);
  std::vector<float> sum(params.m * params.n);
  std::vector<double> left(kFractalRows * kDepth<U>), right(kFractalRows * kDepth<U>);
  auto decode = [&](auto* codes, int matrix, int64_t first_row, int64_t height, int64_t first_k, int64_t width,
                    std::vector<double>& values) {
    constexpr int64_t kPerRow = kBlockBytes / sizeof(*codes);
    for (int64_t row = 0; row < height; ++row) {
      for (int64_t k = 0; k < width; ++k) {
        values[row * kDepth<U> + k] = operand(codes + row * kPerRow, k) * scale(matrix, first_row + row, first_k + k);
      }
    }
  };
  for (int64_t kb = 0; kb < depth; ++kb) {
    const int64_t first_k = kb * kDepth<U>, width = std::min<int64_t>(kDepth<U>, params.k - first_k);
    for (int64_t nb = 0; nb < columns; ++nb) {
      const int64_t n_end = rows_in(nb, params.n);
      const S* b = op.read(advanced(filter, (kb * columns + nb) * kFractalBytes), n_end * kBlockBytes / sizeof(S));
      decode(b, 1, nb * kFractalRows, n_end, first_k, width, right);
      for (int64_t mb = 0; mb < rows; ++mb) {
        const int64_t m_end = rows_in(mb, params.m), fractal = kIs2201 ? mb * depth + kb : kb * rows + mb;
        const int64_t offset = vector ? kb * int64_t{kBlockBytes} : fractal * kFractalBytes;
        const uint64_t start = vector && kb > 0 ? kBlockBytes : kFractalBytes;
        const U* a = op.read(advanced(fm, offset), m_end * kBlockBytes / sizeof(U), start);
        decode(a, 0, mb * kFractalRows, m_end, first_k, width, left);
        for (int64_t m = 0; m < m_end; ++m) {
          for (int64_t n = 0; n < n_end; ++n) {
            float& total = sum[(mb * kFractalRows + m) * params.n + nb * kFractalRows + n];
            const double *x = &left[m * kDepth<U>], *y = &right[n * kDepth<U>];
            for (int64_t k = 0; k < width; ++k) total += static_cast<float>(x[k] * y[k]);
          }
        }
      }
    }
  }
  for (int64_t m = 0; m < params.m; ++m) {
    for (int64_t nb = 0; nb < columns; ++nb) {
      const int64_t n_end = rows_in(nb, params.n), offset = (nb * rows * kFractalRows + m) * kFractalRows;
      const Local<float> row = dst[static_cast<uint32_t>(offset)];
      const float* before = params.cmatrixInitVal ? nullptr : op.read(row, n_end);
      float* out = op.write(row, n_end);
      for (int64_t n = 0; n < n_end; ++n) {
        const float product = sum[m * params.n + nb * kFractalRows + n];
        out[n] = before == nullptr ? product : before[n] + product;
      }
    }
  }
}

}  // namespace v4npu::emulation

namespace AscendC {

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& params,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kCubeOperand<T> || kScaledOperand<T>);
  Op op("DataCopy", Pipe::MTE2, at);
  op.require(lies_in(dst, Space::L1), "an ND2NZ copy goes to L1");
  op.require(params.ndNum == 1 && params.nValue > 0 && params.dValue > 0, "one matrix that is not empty is emulated");
  check_nz(op, params.nValue, params.dstNzC0Stride, params.dstNzNStride);
  op.require(params.dValue <= kMaxNdColumns && params.srcDValue <= kMaxNdColumns, "dValue and srcDValue end at 65535");
  constexpr int64_t kColumns = kBlockBytes / sizeof(T);
  for (int64_t row = 0; row < params.nValue; ++row) {
    const int64_t start = row * static_cast<int64_t>(params.srcDValue) * sizeof(T);
    const uint8_t* source = op.read(src, start, params.dValue * sizeof(T));
    for (int64_t column = 0; column < params.dValue; column += kColumns) {
      const int64_t blocks = column / kColumns * params.dstNzC0Stride + row * params.dstNzNStride;
      T* out = op.write(advanced(dst, blocks * kBlockBytes), kColumns);
      std::memset(out, 0, kBlockBytes);
      std::memcpy(out, source + column * sizeof(T), std::min<int64_t>(kColumns, params.dValue - column) * sizeof(T));
    }
  }
}

template <typename T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2DParams& params,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kCubeOperand<T> && !kFp8Operand<T>, "fp8 is loaded with LoadData2DParamsV2");
  Op op("LoadData", Pipe::MTE1, at);
  check_load(op, dst, src);
  op.require(!params.ifTranspose && params.addrMode == 0, "transposing and descending loads are not emulated");
  op.require(params.dstGap == 0, "3510 ignores dstGap");
  op.require(params.repeatTimes > 0, "no fractals");
  for (int64_t i = 0; i < params.repeatTimes; ++i) {
    move_fractal(op, advanced(dst, i * kFractalBytes),
                 advanced(src, (params.startIndex + i * params.srcStride) * kFractalBytes));
  }
}

// dst (m x n, fp32) = fm (m x k) * filter (k x n), plus dst unless cmatrixInitVal.
template <typename T, typename U, typename S>
void Mmad(const LocalTensor<T>& dst, const LocalTensor<U>& fm, const LocalTensor<S>& filter, const MmadParams& params,
          const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<T, float> && kCubeOperand<U> && kCubeOperand<S>);
  static_assert(std::is_same_v<U, S> || (kFp8Operand<U> && kFp8Operand<S>));
  Op op("Mmad", Pipe::M, at);
  check_product(op, dst, fm, filter, params, kFractalBytes);
  multiply(op, dst, fm, filter, params, [](int, int64_t, int64_t) { return 1.0; });
}

enum class CO2Layout : uint8_t { NZ, ROW_MAJOR, COLUMN_MAJOR };

struct FixpipeConfig {
  CO2Layout format;
  bool isToUB = false;
};
constexpr FixpipeConfig CFG_ROW_MAJOR = {CO2Layout::ROW_MAJOR};

template <typename T, typename U, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const GlobalTensor<T>& dst, const LocalTensor<U>& src, const FixpipeParamsV220& params,
             const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<U, float> && kOneOf<T, float, half, bfloat16_t>);
  static_assert(config.format == CO2Layout::ROW_MAJOR, "only the row-major output is emulated");
  Op op("Fixpipe", Pipe::FIX, at);
  const QuantMode_t expected = std::is_same_v<T, float> ? NoQuant : std::is_same_v<T, half> ? F322F16 : F322BF16;
  op.require(lies_in(src, Space::L0C), "comes from L0C");
  op.require(params.quantPre == expected, "quantPre does not fit the type of the output");
  op.require(!params.reluEn, "reluEn is not emulated");
  op.require(params.mSize > 0 && params.nSize > 0 && params.nSize % 16 == 0, "nSize must be a multiple of 16");
  for (int64_t m = 0; m < params.mSize; ++m) {
    for (int64_t n = 0; n < params.nSize; n += kFractalRows) {
      const int64_t offset = (n / kFractalRows * params.srcStride + m) * kFractalRows;
      const float* sum = op.read(src[static_cast<uint32_t>(offset)], kFractalRows);
      T row[kFractalRows];
      for (int64_t i = 0; i < kFractalRows; ++i) row[i] = static_cast<T>(sum[i]);
      std::memcpy(op.write(dst, (m * params.dstStride + n) * sizeof(T), sizeof row), row, sizeof row);
    }
  }
}

}  // namespace AscendC
