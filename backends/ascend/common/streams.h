// What hc_pre and hc_head share: the mixes of a few tokens at a time, and the weighted sum of a token's streams.
#pragma once

#include "products.h"

namespace v4npu {

// UB in bytes, T = fp32 / 16 bit:  products.h 123936 / 107552   stream 2 x 8192 / 4096   out 2 x 8192 / 4096
//                                  fp32 stream and sum 2 x 8192   mixes, sums of a tile, scales, base, ones and
//                                  sigmoids 6 x 1408   total 181536 / 148768
template <typename T>
class StreamMixes {
  using F32 = AscendC::LocalTensor<float>;

 public:
  static constexpr int32_t kTokens = TokenProducts<T, float>::kTokens;
  static constexpr int32_t kMaxStreams = 8;

  __aicore__ inline void init(AscendC::TPipe& pipe, GM_ADDR streams, GM_ADDR fn, GM_ADDR base, GM_ADDR y,
                              int64_t num_tokens, int64_t hc_mult, int64_t hidden_size, int32_t num_mixes,
                              float norm_eps) {
    hc_mult_ = static_cast<int32_t>(hc_mult);
    hidden_size_ = hidden_size;
    num_mixes_ = num_mixes;
    norm_eps_ = norm_eps;
    stride_ = (num_mixes + kSlot - 1) / kSlot * kSlot + kSlot;  // the last slot holds the sum of squares
    products_.init(pipe, streams, fn, num_tokens, hc_mult * hidden_size, num_mixes);
    streams_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(streams), num_tokens * hc_mult * hidden_size);
    base_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(base), num_mixes);
    y_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(y), num_tokens * hidden_size);
    pipe.InitBuffer(stream_queue_, 2, kTile * sizeof(T));
    pipe.InitBuffer(y_queue_, 2, kTile * sizeof(T));
    pipe.InitBuffer(tile_buffer_, 2 * kTile * sizeof(float));
    pipe.InitBuffer(mix_buffer_, 6 * kTokens * kMaxStride * sizeof(float));
    stream32_ = tile_buffer_.template Get<float>();
    sum_ = stream32_[kTile];
    mixes_ = mix_buffer_.template Get<float>();
    partial_ = mixes_[kTokens * kMaxStride];
    scales_ = mixes_[2 * kTokens * kMaxStride];
    bases_ = mixes_[3 * kTokens * kMaxStride];
    ones_ = mixes_[4 * kTokens * kMaxStride];
    sigmoids_ = mixes_[5 * kTokens * kMaxStride];
  }

  // One scale for the first hc_mult mixes, one for the next hc_mult, where there are so many, and one for the rest.
  // Nothing orders the scalar unit's writes before vector instructions yet.
  __aicore__ inline void prepare(const AscendC::GlobalTensor<float>& scale) {
    AscendC::Duplicate(ones_, 1.0f, kTokens * kMaxStride);
    AscendC::Duplicate(mixes_, 0.0f, kTokens * kMaxStride);  // tokens that a last group lacks
    AscendC::PipeBarrier<PIPE_V>();
    for (int32_t t = 0; t < kTokens; ++t) {
      for (int32_t i = 0; i < stride_; ++i) {
        const int32_t part = i < hc_mult_ ? 0 : i < 2 * hc_mult_ ? 1 : 2;
        scales_.SetValue(t * stride_ + i, i < num_mixes_ ? scale.GetValue(part) : 0.0f);
        bases_.SetValue(t * stride_ + i, i < num_mixes_ ? base_.GetValue(i) : 0.0f);
      }
    }
  }

  // mixes() of the tokens: products, times the inverse of the root mean square, times scale, plus base.
  __aicore__ inline void run(AscendC::TPipe& pipe, int64_t token, int32_t tokens) {
    const int32_t square_at = stride_ - kSlot, all = tokens * stride_;
    products_.run(token, tokens, mixes_, partial_, stride_, square_at);
    for (int32_t t = 0; t < tokens; ++t) {
      const F32 mean = mixes_[t * stride_ + square_at];
      AscendC::Muls(mean, mean, 1.0f / static_cast<float>(hc_mult_ * hidden_size_), 1);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Adds(mean, mean, norm_eps_, 1);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Sqrt(mean, mean, 1);  // Rsqrt is documented as coarser than 1e-4
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Div(mean, ones_, mean, 1);
    }
    pass<AscendC::HardEvent::V_S>(pipe);
    for (int32_t t = 0; t < tokens; ++t) {
      const F32 row = mixes_[t * stride_];
      AscendC::Muls(row, row, row.GetValue(square_at), num_mixes_);
    }
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mul(mixes_, mixes_, scales_, all);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(mixes_, mixes_, bases_, all);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(sigmoids_, mixes_, -1.0f, all);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Exp(sigmoids_, sigmoids_, all);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(sigmoids_, sigmoids_, 1.0f, all);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Div(sigmoids_, ones_, sigmoids_, all);
    pass<AscendC::HardEvent::V_S>(pipe);
  }

  // The streams of token + t, each times its sigmoid plus `eps`, added up into y.
  __aicore__ inline void collapse(int64_t token, int32_t t, float eps) {
    for (int64_t start = 0; start < hidden_size_; start += kTile) {
      const int32_t count = static_cast<int32_t>(hidden_size_ - start < kTile ? hidden_size_ - start : kTile);
      for (int32_t i = 0; i < hc_mult_; ++i) {
        const float weight = sigmoids_.GetValue(t * stride_ + i) + eps;
        load(((token + t) * hc_mult_ + i) * hidden_size_ + start, count);
        if (i == 0) {
          AscendC::Muls(sum_, stream32_, weight, count);
        } else {
          AscendC::Muls(stream32_, stream32_, weight, count);
          AscendC::PipeBarrier<PIPE_V>();
          AscendC::Add(sum_, sum_, stream32_, count);
        }
      }
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::LocalTensor<T> result = y_queue_.template AllocTensor<T>();
      narrow(result, sum_, count);
      y_queue_.EnQue(result);
      result = y_queue_.template DeQue<T>();
      AscendC::DataCopyPad(y_[(token + t) * hidden_size_ + start], result, one_run<T>(count));
      y_queue_.FreeTensor(result);
    }
  }

  __aicore__ inline const F32& mixes() const { return mixes_; }        // [tokens, stride()]
  __aicore__ inline const F32& sigmoids() const { return sigmoids_; }  // of the mixes
  __aicore__ inline int32_t stride() const { return stride_; }

 private:
  static constexpr int32_t kTile = 2048;
  static constexpr int32_t kSlot = 8;  // floats in a block of 32 bytes
  static constexpr int32_t kMaxStride = (2 + kMaxStreams) * kMaxStreams + kSlot;

  __aicore__ inline void load(int64_t start, int32_t count) {
    AscendC::LocalTensor<T> in = stream_queue_.template AllocTensor<T>();
    AscendC::DataCopyPad(in, streams_[start], one_run<T>(count), AscendC::DataCopyPadExtParams<T>());
    stream_queue_.EnQue(in);
    in = stream_queue_.template DeQue<T>();
    widen(stream32_, in, count);
    AscendC::PipeBarrier<PIPE_V>();
    stream_queue_.FreeTensor(in);
  }

  TokenProducts<T, float> products_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> stream_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> y_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> tile_buffer_, mix_buffer_;
  AscendC::GlobalTensor<T> streams_;   // [num_tokens, hc_mult, hidden_size]
  AscendC::GlobalTensor<float> base_;  // [num_mixes]
  AscendC::GlobalTensor<T> y_;         // [num_tokens, hidden_size]
  F32 stream32_, sum_;                 // of a tile
  F32 mixes_, partial_, scales_, bases_, ones_, sigmoids_;
  int64_t hidden_size_;
  int32_t hc_mult_, num_mixes_, stride_;
  float norm_eps_;
};

}  // namespace v4npu
