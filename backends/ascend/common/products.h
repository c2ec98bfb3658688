// Products of a few tokens with all rows of a weight, on the vector unit: right for a handful of tokens; for many, the
// cube unit is the place for them.
#pragma once

#include "rows.h"

namespace v4npu {

// UB in bytes, T = W = fp32 / 16 bit:  x 32768 / 16384   weight 2 x 8192 / 4096   fp32 x and products 2 x 32768
//                                      fp32 weight 8192   sums of 8 rows 1024   offsets 32   total 123936 / 99360
template <typename T, typename W>
class TokenProducts {
 public:
  static constexpr int32_t kTokens = 4;

  __aicore__ inline void init(AscendC::TPipe& pipe, GM_ADDR x, GM_ADDR weight, int64_t num_tokens, int64_t n,
                              int32_t num_rows) {
    n_ = n;
    num_rows_ = num_rows;
    x_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(x), num_tokens * n);
    weight_.SetGlobalBuffer(reinterpret_cast<__gm__ W*>(weight), num_rows * n);
    pipe.InitBuffer(x_queue_, 1, kTokens * kTile * sizeof(T));
    pipe.InitBuffer(weight_queue_, 2, kTile * sizeof(W));
    pipe.InitBuffer(tile_buffer_, (2 * kTokens + 1) * kTile * sizeof(float));
    x32_ = tile_buffer_.Get<float>();
    product_ = x32_[kTokens * kTile];
    weight32_ = x32_[2 * kTokens * kTile];
    pipe.InitBuffer(slot_buffer_, (kTokens * kSlot + 1) * kSlot * sizeof(float));
    slots_ = slot_buffer_.Get<float>();
    slot_offset_ = slots_[kTokens * kSlot * kSlot].template ReinterpretCast<int32_t>();
    AscendC::CreateVecIndex(slot_offset_, 0, kSlot);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(slot_offset_, slot_offset_, static_cast<int32_t>(kSlot * sizeof(float)), kSlot);
  }

  // sums[t * stride + row] = x[token + t] . weight[row], and sums[t * stride + square_at] = x[token + t] . x[token + t]
  // unless that is negative. `partial` has the size of the sums; what else is in either becomes zero. Of stride and
  // square_at a block of 32 bytes is a part. Ends with a barrier.
  __aicore__ inline void run(int64_t token, int32_t tokens, const AscendC::LocalTensor<float>& sums,
                             const AscendC::LocalTensor<float>& partial, int32_t stride, int32_t square_at = -1) {
    const int32_t all = tokens * stride;
    AscendC::Duplicate(sums, 0.0f, all);
    AscendC::Duplicate(partial, 0.0f, all);
    for (int64_t start = 0; start < n_; start += kTile) {
      const int32_t count = static_cast<int32_t>(n_ - start < kTile ? n_ - start : kTile);
      load_tokens(token, tokens, start, count);
      if (square_at >= 0) {
        AscendC::PipeBarrier<PIPE_V>();
        for (int32_t t = 0; t < tokens; ++t) AscendC::Mul(product_[t * kTile], x32_[t * kTile], x32_[t * kTile], count);
        add_up(tokens, partial[square_at], stride, count);
      }
      for (int32_t row = 0; row < num_rows_; ++row) {
        load_weight(row * n_ + start, count);
        for (int32_t t = 0; t < tokens; ++t) AscendC::Mul(product_[t * kTile], x32_[t * kTile], weight32_, count);
        add_up(tokens, slots_[row % kSlot * kSlot], kSlot * kSlot, count);
        if (row % kSlot == kSlot - 1 || row == num_rows_ - 1) collect(tokens, partial, stride, row);
      }
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Add(sums, sums, partial, all);
    }
    AscendC::PipeBarrier<PIPE_V>();
  }

 private:
  static constexpr int32_t kTile = 2048;
  static constexpr int32_t kSlot = 8;  // floats in a block of 32 bytes

  // Each sum begins a block: on dav_3510 a sum may be stored to whole blocks alone.
  __aicore__ inline void add_up(int32_t tokens, const AscendC::LocalTensor<float>& to, int32_t stride, int32_t count) {
    AscendC::PipeBarrier<PIPE_V>();
    for (int32_t t = 0; t < tokens; ++t) {
      const AscendC::LocalTensor<float> product = product_[t * kTile];
      AscendC::ReduceSum(to[t * stride], product, product, count);
    }
  }

  // The sums of the rows up to `last` that are among eight with it.
  __aicore__ inline void collect(int32_t tokens, const AscendC::LocalTensor<float>& partial, int32_t stride,
                                 int32_t last) {
    const int32_t rows = last % kSlot + 1;
    const AscendC::LocalTensor<uint32_t> offset = slot_offset_.template ReinterpretCast<uint32_t>();
    AscendC::PipeBarrier<PIPE_V>();
    for (int32_t t = 0; t < tokens; ++t) {
      AscendC::Gather(partial[t * stride + last + 1 - rows], slots_[t * kSlot * kSlot], offset, 0u, rows);
    }
  }

  __aicore__ inline void load_tokens(int64_t token, int32_t tokens, int64_t start, int32_t count) {
    AscendC::LocalTensor<T> in = x_queue_.template AllocTensor<T>();
    for (int32_t t = 0; t < tokens; ++t) {
      AscendC::DataCopyPad(in[t * kTile], x_[(token + t) * n_ + start], one_run<T>(count),
                           AscendC::DataCopyPadExtParams<T>());
    }
    x_queue_.EnQue(in);
    in = x_queue_.template DeQue<T>();
    for (int32_t t = 0; t < tokens; ++t) widen(x32_[t * kTile], in[t * kTile], count);
    x_queue_.FreeTensor(in);
  }

  __aicore__ inline void load_weight(int64_t start, int32_t count) {
    AscendC::LocalTensor<W> in = weight_queue_.template AllocTensor<W>();
    AscendC::DataCopyPad(in, weight_[start], one_run<W>(count), AscendC::DataCopyPadExtParams<W>());
    weight_queue_.EnQue(in);
    in = weight_queue_.template DeQue<W>();
    widen(weight32_, in, count);
    AscendC::PipeBarrier<PIPE_V>();
    weight_queue_.FreeTensor(in);
  }

  AscendC::TQue<AscendC::TPosition::VECIN, 1> x_queue_, weight_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> tile_buffer_, slot_buffer_;
  AscendC::GlobalTensor<T> x_;       // [num_tokens, n]
  AscendC::GlobalTensor<W> weight_;  // [num_rows, n]
  AscendC::LocalTensor<float> x32_, product_, weight32_;
  AscendC::LocalTensor<float> slots_;  // [kTokens, kSlot rows, kSlot]
  AscendC::LocalTensor<int32_t> slot_offset_;
  int64_t n_;
  int32_t num_rows_;
};

}  // namespace v4npu
