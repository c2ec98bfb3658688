// Codes of 8 and 4 bits to bf16 or fp32, exactly, on a vector core: a byte is looked up in a table, what comes out is
// multiplied by the scale of its block. So subnormal codes and NaNs need no case of their own.
//
// At most kRows x kDepth values at a time, and scales of the same rows; a row of either starts on a block of 32 bytes.
// UB in bytes, T = fp32 / bf16:  codes 2 x 4096   scales 2 x 1024   values 2 x 16384 / 8192   fp32 2 x 16384
//                                offsets 2 x 16384   half 8192   fp32 scales 4096   tables 2 x 1024
//                                total 122880 / 106496
#pragma once

#include "fp8_tables.h"

namespace v4npu {

// kGroup values of a row have a scale of kScaleBytes, one byte a ue8m0, four an fp32; 0: a scale for 128 rows of 128.
struct Fp8Weight {
  static constexpr int32_t kPerByte = 1, kGroup = 0, kScaleBytes = 1;
};
struct Fp8Rows {
  static constexpr int32_t kPerByte = 1, kGroup = 128, kScaleBytes = 1;
};
struct Fp8KvRows {
  static constexpr int32_t kPerByte = 1, kGroup = 64, kScaleBytes = 1;
};
struct Fp8KeyRows {
  static constexpr int32_t kPerByte = 1, kGroup = 128, kScaleBytes = 4;
};
struct Fp4Weight {
  static constexpr int32_t kPerByte = 2, kGroup = 32, kScaleBytes = 1;
};

// A few rows, wherever they lie.
template <typename Format, typename T>
class RowDequantiser {
  using U8 = AscendC::LocalTensor<uint8_t>;
  using F32 = AscendC::LocalTensor<float>;
  using I32 = AscendC::LocalTensor<int32_t>;
  using U32 = AscendC::LocalTensor<uint32_t>;

 public:
  static constexpr int32_t kRows = 32, kDepth = 128;
  static constexpr bool kShared = Format::kGroup == 0;
  static constexpr int32_t kScaled = kShared ? kDepth : Format::kGroup;

  __aicore__ inline void init(AscendC::TPipe& pipe) {
    pipe_ = &pipe;
    pipe.InitBuffer(code_queue_, 2, kCount);
    pipe.InitBuffer(scale_queue_, 2, kRows * kBlock);
    pipe.InitBuffer(out_queue_, 2, kCount * sizeof(T));
    pipe.InitBuffer(value_buffer_, kCount * sizeof(float));
    pipe.InitBuffer(spread_buffer_, kCount * sizeof(float));
    pipe.InitBuffer(offset_buffer_, kCount * sizeof(int32_t));
    pipe.InitBuffer(scale_of_buffer_, kCount * sizeof(int32_t));
    pipe.InitBuffer(half_buffer_, kCount * sizeof(half));
    pipe.InitBuffer(factor_buffer_, kRows * kBlock * sizeof(float));
    pipe.InitBuffer(value_table_buffer_, kCodes * sizeof(float));
    pipe.InitBuffer(factor_table_buffer_, kCodes * sizeof(float));
    value_ = value_buffer_.template Get<float>();
    spread_ = spread_buffer_.template Get<float>();
    offset_ = offset_buffer_.template Get<int32_t>();
    scale_of_ = scale_of_buffer_.template Get<int32_t>();
    half_ = half_buffer_.template Get<half>();
    factor_ = factor_buffer_.template Get<float>();
    value_table_ = value_table_buffer_.template Get<float>();
    factor_table_ = factor_table_buffer_.template Get<float>();
    make_tables();
  }

  // rows x depth values, at most kRows x kDepth: codes and scales of the first row, bytes from one row to the next, and
  // where values go, in rows of `stride`. One scale if kShared.
  __aicore__ inline void convert(const AscendC::GlobalTensor<uint8_t>& codes, int64_t code_stride,
                                 const AscendC::GlobalTensor<uint8_t>& scales, int64_t scale_stride, int32_t rows,
                                 int32_t depth, const AscendC::GlobalTensor<T>& out, int64_t stride) {
    const int32_t bytes = depth / Format::kPerByte, pitch = blocks(bytes) * kBlock, width = pitch * Format::kPerByte;
    if (!kShared && width != width_) spread_over(width);
    const int32_t scale_rows = kShared ? 1 : rows;
    const int32_t scale_bytes = kShared ? 1 : (depth + kScaled - 1) / kScaled * Format::kScaleBytes;
    load(code_queue_, codes, rows, bytes, code_stride);
    load(scale_queue_, scales, scale_rows, scale_bytes, scale_stride);
    F32 factor = factor_;
    if constexpr (kWideScales) {
      factor = scale_queue_.template DeQue<float>();
    } else {
      look_up<false>(scale_queue_, factor, factor_table_, scale_rows * kBlock);
    }
    float shared = 0.0f;
    if constexpr (kShared) {
      pass<AscendC::HardEvent::V_S>(*pipe_);
      shared = factor.GetValue(0);
    }
    look_up<Format::kPerByte == 2>(code_queue_, value_, value_table_, rows * pitch);
    if constexpr (kShared) {
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Muls(value_, value_, shared, rows * width);
    } else {
      AscendC::Gather(spread_, factor, uint32(scale_of_), 0, rows * width);
      if constexpr (kWideScales) scale_queue_.FreeTensor(factor);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Mul(value_, value_, spread_, rows * width);
    }
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::LocalTensor<T> result = out_queue_.template AllocTensor<T>();
    narrow(result, value_, rows * width);
    out_queue_.EnQue(result);
    result = out_queue_.template DeQue<T>();
    constexpr auto kSize = static_cast<int32_t>(sizeof(T));
    AscendC::DataCopyPad(out, result,
                         AscendC::DataCopyExtParams(static_cast<uint16_t>(rows), static_cast<uint32_t>(depth * kSize),
                                                    blocks(width * kSize) - blocks(depth * kSize),
                                                    static_cast<uint32_t>((stride - depth) * kSize), 0));
    out_queue_.FreeTensor(result);
  }

 private:
  static constexpr int32_t kCount = kRows * kDepth;
  static constexpr int32_t kBlock = 32;  // bytes
  static constexpr int32_t kCodes = kByteCodes;
  static constexpr bool kWideScales = Format::kScaleBytes == 4;
  static constexpr int32_t kScalePitch = kWideScales ? kBlock / 4 : kBlock;  // floats between the scales of two rows

  static __aicore__ inline U32 uint32(const I32& t) { return t.template ReinterpretCast<uint32_t>(); }
  static __aicore__ inline U32 uint32(const F32& t) { return t.template ReinterpretCast<uint32_t>(); }
  static __aicore__ inline int32_t blocks(int32_t bytes) { return (bytes + kBlock - 1) / kBlock; }

  // Rows of bytes, each filled up with zeros to whole blocks.
  template <typename Queue>
  __aicore__ inline void load(Queue& queue, const AscendC::GlobalTensor<uint8_t>& source, int32_t rows, int32_t bytes,
                              int64_t stride) {
    const U8 to = queue.template AllocTensor<uint8_t>();
    const auto padding = static_cast<uint8_t>(blocks(bytes) * kBlock - bytes);
    AscendC::DataCopyPad(to, source,
                         AscendC::DataCopyExtParams(static_cast<uint16_t>(rows), static_cast<uint32_t>(bytes),
                                                    static_cast<uint32_t>(stride - bytes), 0, 0),
                         AscendC::DataCopyPadExtParams<uint8_t>(true, 0, padding, 0));
    queue.EnQue(to);
  }

  // to[i] = table[byte i]; kPairs: of two bf16 each, which become fp32.
  template <bool kPairs, typename Queue>
  __aicore__ inline void look_up(Queue& queue, const F32& to, const F32& table, int32_t bytes) {
    U8 in = queue.template DeQue<uint8_t>();
    AscendC::Cast(half_, in, AscendC::RoundMode::CAST_NONE, bytes);
    AscendC::PipeBarrier<PIPE_V>();
    queue.FreeTensor(in);
    AscendC::Cast(offset_, half_, AscendC::RoundMode::CAST_RINT, bytes);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(offset_, offset_, 4, bytes);
    AscendC::PipeBarrier<PIPE_V>();
    if constexpr (kPairs) {
      AscendC::Gather(spread_, table, uint32(offset_), 0, bytes);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Cast(to, spread_.template ReinterpretCast<bfloat16_t>(), AscendC::RoundMode::CAST_NONE, 2 * bytes);
    } else {
      AscendC::Gather(to, table, uint32(offset_), 0, bytes);
    }
  }

  // Where the scale of each value lies, in bytes of the scales in fp32; rows are `width` values apart.
  __aicore__ inline void spread_over(int32_t width) {
    width_ = width;
    for (int32_t row = 0; row < kRows; ++row) {
      for (int32_t at = 0; at < width; at += kScaled) {
        const int32_t count = width - at < kScaled ? width - at : kScaled;
        AscendC::Duplicate(scale_of_[row * width + at], (row * kScalePitch + at / kScaled) * 4, count);
      }
    }
  }

  // The values of all codes and of all scales.
  __aicore__ inline void make_tables() {
    const I32 index = offset_, value = value_table_.template ReinterpretCast<int32_t>();
    const I32 factor = factor_table_.template ReinterpretCast<int32_t>();
    make_scale_table(*pipe_, factor, index);
    if constexpr (Format::kPerByte == 1) {
      make_e4m3_table(*pipe_, value, index, spread_);
    } else {
      make_e2m1(value);
    }
  }

  // The low nibble's bf16 in the lower half of a word, the high one's in the upper.
  __aicore__ inline void make_e2m1(const I32& value) {
    constexpr int32_t kMagnitudes[] = {0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0};
    constexpr int32_t kNibbles = 16;
    const I32 low = spread_.template ReinterpretCast<int32_t>();
    for (int32_t i = 0; i < kNibbles; ++i) low.SetValue(i, kMagnitudes[i % 8] + (i < 8 ? 0 : 0x8000));
    pass<AscendC::HardEvent::S_V>(*pipe_);
    for (int32_t i = 0; i < kNibbles; ++i) {
      const uint32_t high = static_cast<uint32_t>(kMagnitudes[i % 8] + (i < 8 ? 0 : 0x8000)) << 16;
      AscendC::Adds(value[i * kNibbles], low, static_cast<int32_t>(high), kNibbles);
    }
  }

  AscendC::TPipe* pipe_ = nullptr;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> code_queue_, scale_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> out_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> value_buffer_, spread_buffer_, offset_buffer_, scale_of_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> half_buffer_, factor_buffer_, value_table_buffer_, factor_table_buffer_;
  F32 value_, spread_, factor_, value_table_, factor_table_;
  I32 offset_, scale_of_;
  AscendC::LocalTensor<half> half_;
  int32_t width_ = 0;
};

// Rows of matrices [num_rows, k].
template <typename Format, typename T>
class Dequantiser {
  using Rows = RowDequantiser<Format, T>;

 public:
  static constexpr int32_t kRows = Rows::kRows, kDepth = Rows::kDepth;

  __aicore__ inline Dequantiser(GM_ADDR codes, GM_ADDR scales, int64_t num_rows, int64_t k)
      : all_codes_(codes), all_scales_(scales), num_rows_(num_rows), k_(k) {
    row_scales_ = (k + Rows::kScaled - 1) / Rows::kScaled;
    select(0, 0);
    rows_.init(pipe_);
  }

  // Goes on to one of several matrices, whose codes lie rows_apart rows apart, their scales one after the other.
  __aicore__ inline void select(int64_t matrix, int64_t rows_apart) {
    const int64_t scales = (Rows::kShared ? (num_rows_ + kDepth - 1) / kDepth : num_rows_) * row_scales_;
    codes_.SetGlobalBuffer(all_codes_ + matrix * rows_apart * k_ / Format::kPerByte, num_rows_ * k_ / Format::kPerByte);
    scales_.SetGlobalBuffer(all_scales_ + matrix * scales, scales);
  }

  // rows x depth values from [row, start] on, to rows of `stride` values; start is a multiple of 64, and of kDepth
  // unless depth ends there.
  __aicore__ inline void run(int64_t row, int32_t rows, int64_t start, int32_t depth,
                             const AscendC::GlobalTensor<T>& out, int64_t stride) {
    for (int32_t done = 0; done < rows;) {
      int32_t count = rows - done < kRows ? rows - done : kRows;
      const auto left = static_cast<int32_t>(kDepth - (row + done) % kDepth);
      if (Rows::kShared && left < count) count = left;
      const int64_t scale_row = Rows::kShared ? (row + done) / kDepth : row + done;
      rows_.convert(codes_[((row + done) * k_ + start) / Format::kPerByte], k_ / Format::kPerByte,
                    scales_[scale_row * row_scales_ + start / Rows::kScaled], row_scales_, count, depth,
                    out[done * stride], stride);
      done += count;
    }
  }

 private:
  AscendC::TPipe pipe_;
  Rows rows_;
  AscendC::GlobalTensor<uint8_t> codes_;   // [num_rows, k / kPerByte]
  AscendC::GlobalTensor<uint8_t> scales_;  // [num_rows or num_rows / 128, row_scales]
  GM_ADDR all_codes_;
  GM_ADDR all_scales_;
  int64_t num_rows_, k_, row_scales_;
};

}  // namespace v4npu
