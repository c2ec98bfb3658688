// Products of e4m3 codes with a power of two to every 32 values along k (MX), as the cube core of dav_3510 takes them.
#pragma once

#include "cube.h"

static_assert(__NPU_ARCH__ == 3510, "operands with scales are a matter of dav_3510");

namespace v4npu {

// For CubeProducts of one group: scales are [rows, k / 32] of a and [columns, k / 32] of b, k a multiple of 64. They
// travel as pairs, in 16 bits, in fractals of 16 rows.
// Bytes of L1: 4 x 2048
class MxOperands {
  using Codes = AscendC::LocalTensor<fp8_e4m3fn_t>;
  using Pairs = AscendC::LocalTensor<half>;
  using Queue = AscendC::TQue<AscendC::TPosition::A1, 1>;

 public:
  __aicore__ inline MxOperands(GM_ADDR a_scales, GM_ADDR b_scales) : a_scales_(a_scales), b_scales_(b_scales) {}

  __aicore__ inline void init(AscendC::TPipe& pipe, const CubeShape& shape) {
    row_pairs_ = shape.k / kPair;
    a_.SetGlobalBuffer(reinterpret_cast<__gm__ half*>(a_scales_), shape.rows * row_pairs_);
    b_.SetGlobalBuffer(reinterpret_cast<__gm__ half*>(b_scales_), shape.columns * row_pairs_);
    pipe.InitBuffer(a_queue_, 2, kBytes);
    pipe.InitBuffer(b_queue_, 2, kBytes);
  }

  __aicore__ inline void load(const CubeTile& tile, int64_t start, uint16_t depth) {
    width_ = depth / kPair;
    load(a_queue_, a_[tile.row * row_pairs_ + start / kPair], static_cast<uint16_t>(tile.rows));
    load(b_queue_, b_[tile.column * row_pairs_ + start / kPair], static_cast<uint16_t>(tile.columns));
  }
  __aicore__ inline void take() {
    a1_ = a_queue_.DeQue<half>();
    b1_ = b_queue_.DeQue<half>();
  }
  __aicore__ inline void free() {
    a_queue_.FreeTensor(a1_);
    b_queue_.FreeTensor(b1_);
  }

  __aicore__ inline void split_a(const Codes& a2, const Codes& a1, uint16_t at, uint16_t rows, uint16_t depth) {
    split(a2, a1, a1_, at, rows, depth);
  }
  __aicore__ inline void split_b(const Codes& b2, const Codes& b1, uint16_t at, uint16_t columns, uint16_t depth) {
    split(b2, b1, b1_, at, columns, depth);
  }
  __aicore__ inline void multiply(const AscendC::LocalTensor<float>& sum, const Codes& a2, const Codes& b2,
                                  const AscendC::MmadParams& params) {
    AscendC::MmadMx(sum, a2, b2, params);
  }

 private:
  static constexpr int32_t kPair = 64;                                  // values that two scales cover
  static constexpr int32_t kBlock = 32;                                 // values of a row in a fractal of codes
  static constexpr uint32_t kBytes = 256 * 256 / kPair * sizeof(half);  // of a panel of the largest tile

  __aicore__ inline void load(Queue& queue, const AscendC::GlobalTensor<half>& source, uint16_t rows) {
    const Pairs to = queue.AllocTensor<half>();
    AscendC::DataCopy(to, source, AscendC::Dn2NzParams(1, width_, rows, 0, row_pairs_, width_, 1, 0));
    queue.EnQue(to);
  }

  __aicore__ inline void split(const Codes& to, const Codes& from, const Pairs& scales, uint16_t at, uint16_t rows,
                               uint16_t depth) {
    const auto height = static_cast<uint8_t>(rows), pairs = static_cast<uint8_t>(depth / 2);
    AscendC::LoadData(to, from, scales.ReinterpretCast<fp8_e8m0_t>(),
                      AscendC::LoadData2DParamsV2(0, at / kBlock, rows, depth, rows, rows, false, 0),
                      AscendC::LoadData2DMxParams(0, at / kPair, height, pairs, width_, pairs));
  }

  GM_ADDR a_scales_;
  GM_ADDR b_scales_;
  AscendC::GlobalTensor<half> a_,
      b_;  // [rows, k / 64], [columns, k / 64], two scales each
  Queue a_queue_, b_queue_;
  Pairs a1_, b1_;
  int64_t row_pairs_;
  uint16_t width_;
};

template <typename Out>
__aicore__ inline void mx_products(GM_ADDR a, GM_ADDR a_scales, GM_ADDR b, GM_ADDR b_scales, GM_ADDR out,
                                   const CubeShape& shape) {
  StoredMatrix<fp8_e4m3fn_t> matrix(b, shape);
  CubeProducts<fp8_e4m3fn_t, Out, MxOperands>(a, out, shape, MxOperands(a_scales, b_scales)).run(matrix);
}

// Scales of 128 values each become four of 32: row r of out is row r / kRepeat of `scales`, k a multiple of 64.
// UB in bytes: scales 512   half 1024   words 2 x 2048   out 2048
template <int32_t kRepeat>
class ScaleSpreader {
 public:
  __aicore__ inline ScaleSpreader(GM_ADDR scales, GM_ADDR out, int64_t num_rows, int64_t k)
      : num_rows_(num_rows), row_scales_(static_cast<int32_t>((k + kScaled - 1) / kScaled)), out_row_(k / 32) {
    scales_.SetGlobalBuffer(scales, (num_rows + kRepeat - 1) / kRepeat * row_scales_);
    out_.SetGlobalBuffer(out, num_rows * out_row_);
    pipe_.InitBuffer(in_queue_, 1, kMaxScales);
    pipe_.InitBuffer(out_queue_, 1, kMaxScales * sizeof(int32_t));
    pipe_.InitBuffer(half_buffer_, kMaxScales * sizeof(half));
    pipe_.InitBuffer(word_buffer_, 2 * kMaxScales * sizeof(int32_t));
  }

  __aicore__ inline void run() {
    const BlockRows rows(num_rows_);
    for (int64_t row = rows.first; row < rows.last;) {
      const int64_t next = (row / kRepeat + 1) * kRepeat, end = next < rows.last ? next : rows.last;
      spread(row / kRepeat);
      AscendC::LocalTensor<uint8_t> words = out_queue_.DeQue<uint8_t>();
      for (; row < end; ++row) AscendC::DataCopyPad(out_[row * out_row_], words, one_run<uint8_t>(out_row_));
      out_queue_.FreeTensor(words);
    }
  }

 private:
  static constexpr int32_t kScaled = 128, kMaxScales = 512;

  // A byte, four times in a word.
  __aicore__ inline void spread(int64_t row) {
    AscendC::LocalTensor<uint8_t> bytes = in_queue_.AllocTensor<uint8_t>();
    AscendC::DataCopyPad(bytes, scales_[row * row_scales_], one_run<uint8_t>(row_scales_),
                         AscendC::DataCopyPadExtParams<uint8_t>());
    in_queue_.EnQue(bytes);
    bytes = in_queue_.DeQue<uint8_t>();
    const AscendC::LocalTensor<half> halves = half_buffer_.Get<half>();
    const AscendC::LocalTensor<int32_t> word = word_buffer_.Get<int32_t>(), moved = word[kMaxScales];
    const AscendC::LocalTensor<uint32_t> bits = word.ReinterpretCast<uint32_t>();
    const AscendC::LocalTensor<uint32_t> moved_bits = moved.ReinterpretCast<uint32_t>();
    AscendC::Cast(halves, bytes, AscendC::RoundMode::CAST_NONE, row_scales_);
    in_queue_.FreeTensor(bytes);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(word, halves, AscendC::RoundMode::CAST_RINT, row_scales_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftLeft(moved_bits, bits, 8u, row_scales_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(word, word, moved, row_scales_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftLeft(moved_bits, bits, 16u, row_scales_);
    AscendC::PipeBarrier<PIPE_V>();
    const AscendC::LocalTensor<int32_t> out = out_queue_.AllocTensor<int32_t>();
    AscendC::Add(out, word, moved, row_scales_);
    out_queue_.EnQue(out);
  }

  AscendC::TPipe pipe_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> in_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> out_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> half_buffer_, word_buffer_;
  AscendC::GlobalTensor<uint8_t> scales_;  // [ceil(num_rows / kRepeat), row_scales]
  AscendC::GlobalTensor<uint8_t> out_;     // [num_rows, k / 32]
  int64_t num_rows_;
  int32_t row_scales_;
  int64_t out_row_;
};

}  // namespace v4npu
