// Products of a few tokens with all rows of a weight, on the vector unit: right for a handful of tokens; for many, the
// cube unit is the place for them.
#pragma once

#include "rows.h"

namespace v4npu {

// UB in bytes, T = W = fp32 / 16 bit:  x 32768 / 16384   weight 2 x 8192 / 4096   fp32 x and products 2 x 32768
//                                      fp32 weight 8192   total 122880 / 98304
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
  }

  // sums[t * stride + row] = x[token + t] . weight[row], and sums[t * stride + square_at] = x[token + t] . x[token + t]
  // unless that is negative. `partial` has the size of the sums; what else is in either becomes zero. Ends with a
  // barrier.
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
        add_up(tokens, partial[row], stride, count);
      }
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Add(sums, sums, partial, all);
    }
    AscendC::PipeBarrier<PIPE_V>();
  }

 private:
  static constexpr int32_t kTile = 2048;

  __aicore__ inline void add_up(int32_t tokens, const AscendC::LocalTensor<float>& to, int32_t stride, int32_t count) {
    AscendC::PipeBarrier<PIPE_V>();
    for (int32_t t = 0; t < tokens; ++t) {
      const AscendC::LocalTensor<float> product = product_[t * kTile];
      AscendC::ReduceSum(to[t * stride], product, product, count);
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
  AscendC::TBuf<AscendC::TPosition::VECCALC> tile_buffer_;
  AscendC::GlobalTensor<T> x_;       // [num_tokens, n]
  AscendC::GlobalTensor<W> weight_;  // [num_rows, n]
  AscendC::LocalTensor<float> x32_, product_, weight32_;
  int64_t n_;
  int32_t num_rows_;
};

}  // namespace v4npu
