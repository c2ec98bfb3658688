// Packed rows of a paged cache (csrc/include/v4npu/row_format.h, fp8_kv) to bf16, exactly: the vector cores expand
// those of a step, half each, into a slot of the workspace, from where the cube core takes them. An e4m3 is looked up,
// as is the power of two that 64 of them share; the rope part is copied.
//
// Limits: head_dim - rope_dim a multiple of 32, rope_dim one of 16 and at most 64.
// UB in bytes: rows and their scales 2 x 2688   results 2 x 4096   tables 2 x 1024   where scales lie 8192
//              scales 512; with what attention.h has, total 189184
#pragma once

#include "attention_products.h"
#include "fp8_tables.h"

namespace v4npu {

class PackedRows {
  using U8 = AscendC::LocalTensor<uint8_t>;
  using Bf16 = AscendC::LocalTensor<bfloat16_t>;
  using F32 = AscendC::LocalTensor<float>;
  using I32 = AscendC::LocalTensor<int32_t>;

 public:
  __aicore__ inline void init(AscendC::TPipe& pipe, GM_ADDR window_kv, GM_ADDR window_table, GM_ADDR compressed_kv,
                              GM_ADDR block_table, const AttentionShape& shape, const F32& index, const F32& scratch) {
    rope_ = static_cast<int32_t>(shape.rope_dim);
    keep_ = static_cast<int32_t>(shape.head_dim) - rope_;
    scales_ = (keep_ + kGroup - 1) / kGroup;
    row_scales_ = (scales_ + 7) / 8 * 8;
    const int64_t row = keep_ + 2 * rope_ + row_scales_;
    window_.init_window(window_kv, window_table, shape, row);
    entries_.init_entries(compressed_kv, block_table, shape, row);
    pipe.InitBuffer(row_queue_, 2, kBytes);
    pipe.InitBuffer(out_queue_, 2, kRows * kMaxKvDim * sizeof(bfloat16_t));
    pipe.InitBuffer(value_table_buffer_, kByteCodes * sizeof(float));
    pipe.InitBuffer(factor_table_buffer_, kByteCodes * sizeof(float));
    pipe.InitBuffer(scale_of_buffer_, kRows * kMaxKvDim * sizeof(int32_t));
    pipe.InitBuffer(factor_buffer_, kRows * kBlock * sizeof(float));
    value_table_ = value_table_buffer_.Get<float>();
    factor_table_ = factor_table_buffer_.Get<float>();
    scale_of_ = scale_of_buffer_.Get<int32_t>();
    factor_ = factor_buffer_.Get<float>();
    const I32 numbers = index.ReinterpretCast<int32_t>();
    make_scale_table(pipe, factor_table_.ReinterpretCast<int32_t>(), numbers);
    make_e4m3_table(pipe, value_table_.ReinterpretCast<int32_t>(), numbers, scratch);
    for (int32_t i = 0; i < kRows; ++i) {
      for (int32_t at = 0; at < keep_; at += kGroup) {
        const int32_t count = keep_ - at < kGroup ? keep_ - at : kGroup;
        AscendC::Duplicate(scale_of_[i * keep_ + at], (i * kBlock + at / kGroup) * 4, count);
      }
    }
  }

  // This core's half of the rows of the step. Scratch of kRows * kMaxKvDim values each.
  __aicore__ inline void expand(const AttentionWalk& walk, const AscendC::GlobalTensor<bfloat16_t>& slot,
                                const F32& value, const F32& half_value, const F32& offset, const F32& factor) {
    const int32_t rows = walk.step().rows, middle = (rows + 1) / 2;
    first_ = AscendC::GetSubBlockIdx() == 0 ? 0 : middle;
    last_ = AscendC::GetSubBlockIdx() == 0 ? middle : rows;
    row_ = 0, held_ = 0;
    slot_ = slot, value_ = value, spread_ = factor;
    half_ = half_value.ReinterpretCast<half>(), offset_ = offset.ReinterpretCast<int32_t>();
    walk.visit(*this);
    if (held_ > 0) convert(last_ - held_);
    // A core without rows is held back by the weights of two steps before, which come from the same pipe.
    AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(kKeysFull);
  }

  // For AttentionWalk.
  __aicore__ inline void window(int64_t sequence, int64_t index, int64_t count) {
    take(window_, sequence, index, count);
  }
  __aicore__ inline void entries(int64_t sequence, int64_t index, int64_t count) {
    take(entries_, sequence, index, count);
  }

 private:
  static constexpr int32_t kRows = 4, kGroup = 64, kBlock = 32, kMaxRope = 64;
  static constexpr int32_t kTail = kRows * kMaxKvDim;               // of the rope parts, in bytes
  static constexpr int32_t kScales = kTail + kRows * kMaxRope * 2;  // of the scales
  static constexpr int32_t kBytes = kScales + kRows * kBlock;

  __aicore__ inline void take(const AttentionPages<uint8_t>& pages, int64_t sequence, int64_t index, int64_t count) {
    for (int64_t i = 0; i < count; ++i, ++row_) {
      if (row_ >= first_ && row_ < last_)
        load(pages, pages.page(sequence, index + i) * pages.stride, (index + i) % pages.rows);
    }
  }

  __aicore__ inline void load(const AttentionPages<uint8_t>& pages, int64_t page, int64_t place) {
    if (held_ == 0) in_ = row_queue_.AllocTensor<uint8_t>();
    const int64_t payload = keep_ + 2 * rope_, start = page + place * payload;
    const AscendC::DataCopyPadExtParams<uint8_t> plain, zeros(true, 0, static_cast<uint8_t>(kBlock - scales_), 0);
    AscendC::DataCopyPad(in_[held_ * keep_], pages.data[start], one_run<uint8_t>(keep_), plain);
    if (rope_ > 0)
      AscendC::DataCopyPad(in_[kTail + held_ * 2 * rope_], pages.data[start + keep_], one_run<uint8_t>(2 * rope_),
                           plain);
    AscendC::DataCopyPad(in_[kScales + held_ * kBlock], pages.data[page + pages.rows * payload + place * row_scales_],
                         one_run<uint8_t>(scales_), zeros);
    if (++held_ == kRows) convert(row_ + 1 - kRows);
  }

  // The rows that are held, from `row` of the step on.
  __aicore__ inline void convert(int32_t row) {
    const int32_t dim = keep_ + rope_, count = held_ * keep_;
    row_queue_.EnQue(in_);
    U8 in = row_queue_.DeQue<uint8_t>();
    look_up(factor_, in[kScales], factor_table_, held_ * kBlock);
    look_up(value_, in, value_table_, count);
    AscendC::Gather(spread_, factor_, scale_of_.ReinterpretCast<uint32_t>(), 0u, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mul(value_, value_, spread_, count);
    AscendC::PipeBarrier<PIPE_V>();
    Bf16 out = out_queue_.AllocTensor<bfloat16_t>();
    const Bf16 tail = in[kTail].ReinterpretCast<bfloat16_t>();
    for (int32_t i = 0; i < held_; ++i) {
      narrow(out[i * dim], value_[i * keep_], keep_);
      if (rope_ > 0) AscendC::DataCopy(out[i * dim + keep_], tail[i * rope_], rope_);
    }
    row_queue_.FreeTensor(in);
    out_queue_.EnQue(out);
    out = out_queue_.DeQue<bfloat16_t>();
    AscendC::DataCopy(slot_[row * dim], out, held_ * dim);
    out_queue_.FreeTensor(out);
    held_ = 0;
  }

  __aicore__ inline void look_up(const F32& to, const U8& bytes, const F32& table, int32_t count) {
    AscendC::Cast(half_, bytes, AscendC::RoundMode::CAST_NONE, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(offset_, half_, AscendC::RoundMode::CAST_RINT, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(offset_, offset_, 4, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Gather(to, table, offset_.ReinterpretCast<uint32_t>(), 0u, count);
  }

  AscendC::TQue<AscendC::TPosition::VECIN, 1> row_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> out_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> value_table_buffer_, factor_table_buffer_, scale_of_buffer_,
      factor_buffer_;
  AttentionPages<uint8_t> window_, entries_;
  AscendC::GlobalTensor<bfloat16_t> slot_;  // [kPlaces, head_dim]
  U8 in_;                                   // [kRows, keep], [kRows, rope] of bf16, [kRows, kBlock]
  F32 value_table_, factor_table_, factor_, value_, spread_;
  I32 scale_of_, offset_;
  AscendC::LocalTensor<half> half_;
  int32_t keep_ = 0, rope_ = 0, scales_ = 0, row_scales_ = 0;
  int32_t first_ = 0, last_ = 0, row_ = 0, held_ = 0;  // rows of the step
};

}  // namespace v4npu
