// window_attention, csa_attention and hca_attention on cube and vector cores. Contracts and steps:
// csrc/include/v4npu/ops/window_attention.h and its neighbours; attention_lists.h has whose rows these are.
//
// A block is a cube core and two vector cores; it takes tiles of 16, 32 or 64 heads of a token, by a plan, and walks
// the token's list in steps of 64 places. Of those the rows that exist are gathered, n of them. The scores of a step
// come before the output of the one before, so that products and softmax overlap:
//   cube core:    1 load q   2 gather kv, two steps ahead (fp32: one)   3 scores = kv q^T, [n, tile]   -> workspace
//                 5 output = weights^T kv, [tile, head_dim]                                            -> workspace
//   vector cores: 2 expand packed rows, two steps ahead (packed_rows.h)                                -> workspace
//                 4 online softmax, half the heads each: heads are columns, so that a maximum over rows works on all of
//                 them at once; weights, [n, tile]                                                     -> workspace
//                 5 rescale and add   6 sink, normalise   7 store
// Weights of bf16 are one rounding of p where that is asked for, else the sum of two. n is a multiple of 16 on the
// chip: what is missing repeats the first row, with weights of zero.
//
// Flags: 0 scores full, 1 weights full, 2 output full, 3 packed rows expanded. None says that a slot is free: the
// scores of step + 2 follow the output of `step`, which has waited for what the vector cores made of its scores;
// weights, output and rows likewise.
//
// Workspace, two slots each for a block: scores and weights [64, tile] of 4 bytes, output [head_dim / w, tile, w] of
// fp32, w the largest of 64, 32 and 16 that divides head_dim, rows [64, head_dim] of q's type.
//
// Limits: head_dim a multiple of 16, at most 512; rows of q's type, fp32 or bf16, or packed ones beside bf16; tiles of
// fp32 at most 32 heads.
//
// Bytes, fp32 / bf16:  L1   keys 2 x 131072 / 3 x 65536   q 2 x 65536 / 3 x 65536   weights 8192 / 16384
//                      L0A, L0B  2 x 32768 / 2 x 16384 each   L0C  scores 8192 / 16384   output 2 x 16384 / 2 x 32768
// UB in bytes, fp32 / bf16:  scores 2 x 4096 / 2 x 8192   output as scores   weights as scores   sink 64 / 128
//                            results 2 x 4096   sums 32768 / 65536   value, work, spread and wide factors, offsets
//                            5 x 4096 / 5 x 8192   largest, total, factor 2 each, one more   7 x 64 / 7 x 128
//                            total 86528 / 164864
#pragma once

#include "packed_rows.h"

namespace v4npu {

template <typename T, bool kPacked>
class AttentionSoftmax {
 public:
  __aicore__ inline AttentionSoftmax(GM_ADDR attn_sink, GM_ADDR out, const AttentionShape& s, float scale,
                                     const AttentionSlots<T>& slots)
      : slots_(slots), num_heads_(s.num_heads), scale_(scale), has_sink_(attn_sink != nullptr) {
    // A tile of 16 heads is not halved: 32 bytes of weights are 16 values.
    heads_ = slots.tile > 16 ? slots.tile / 2 : AscendC::GetSubBlockIdx() == 0 ? 16 : 0;
    first_ = static_cast<int32_t>(AscendC::GetSubBlockIdx()) * heads_;
    sink_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(attn_sink), num_heads_);
    out_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(out), s.num_tokens * num_heads_ * s.head_dim);
    pipe_.InitBuffer(score_queue_, 2, kScores * sizeof(float));
    pipe_.InitBuffer(output_queue_, 2, kScores * sizeof(float));
    pipe_.InitBuffer(weight_queue_, 2, kScores * sizeof(float));
    pipe_.InitBuffer(sink_queue_, 1, kMaxHeads * sizeof(float));
    pipe_.InitBuffer(result_queue_, 2, kScores * sizeof(T));
    pipe_.InitBuffer(sum_buffer_, kMaxHeads * kMaxKvDim * sizeof(float));
    pipe_.InitBuffer(work_buffer_, 5 * kScores * sizeof(float));
    pipe_.InitBuffer(head_buffer_, 7 * kMaxHeads * sizeof(float));
    sums_ = sum_buffer_.template Get<float>();
    const F32 work = work_buffer_.template Get<float>(), heads = head_buffer_.template Get<float>();
    value_ = work, work_ = work[kScores], spread_ = work[2 * kScores], wide_ = work[3 * kScores];
    offset_ = work[4 * kScores].template ReinterpretCast<int32_t>();
    for (int32_t i = 0; i < 2; ++i) {
      largest_[i] = heads[i * kMaxHeads], total_[i] = heads[(2 + i) * kMaxHeads];
      factor_[i] = heads[(4 + i) * kMaxHeads];
    }
    top_ = heads[6 * kMaxHeads];
    for (int32_t head = 0; head < heads_; ++head)
      AscendC::Duplicate(offset_[head * slots.chunk], head * static_cast<int32_t>(sizeof(float)), slots.chunk);
  }

  // Where packed rows lie.
  __aicore__ inline void read(GM_ADDR window_kv, GM_ADDR window_table, GM_ADDR compressed_kv, GM_ADDR block_table,
                              const AttentionShape& shape) {
    packed_.init(pipe_, window_kv, window_table, compressed_kv, block_table, shape, work_, value_);
  }

  __aicore__ inline void run(AttentionWalk walk) {
    AttentionWalk ahead = walk;
    for (int32_t i = 0; i < 2; ++i) expand(i, ahead);
    bool more = walk.next();
    if (more) weigh(0, walk.step());
    for (int64_t step = 0; more; ++step) {
      const AttentionStep now = walk.step();
      more = walk.next();
      expand(step + 2, ahead);
      if (more) weigh(step + 1, walk.step());
      accumulate(step, now.first);
      if (!more || walk.step().first) store(now);
    }
  }

 private:
  using F32 = AscendC::LocalTensor<float>;
  static constexpr int32_t kMaxHeads = AttentionSlots<T>::kMaxTile / 2;  // of a vector core
  static constexpr int32_t kScores = kPlaces * kMaxHeads;
  static constexpr float kLowest = -3.0e38f;  // finite: its difference to a score is no NaN

  // Step 2 of packed rows.
  __aicore__ inline void expand(int64_t step, AttentionWalk& ahead) {
    if constexpr (kPacked) {
      if (ahead.next()) packed_.expand(ahead, slots_.keys_of(step), value_, work_, spread_, wide_);
    }
  }

  // Step 4.
  __aicore__ inline void weigh(int64_t step, const AttentionStep& now) {
    const int32_t rows = now.padded(), count = rows * heads_;
    const F32 &largest = largest_[now.tile % 2], &total = total_[now.tile % 2], &factor = factor_[step % 2];
    AscendC::CrossCoreWaitFlag<2, PIPE_MTE2>(kScoresFull);
    if (heads_ == 0) {
      pass<AscendC::HardEvent::MTE2_MTE3>(pipe_);  // on dav_3510 a wait holds back its own pipe alone
      AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(kWeightsFull);
      return;
    }
    F32 in = score_queue_.template AllocTensor<float>();
    AscendC::DataCopy(in, slots_.scores_of(step)[first_],
                      AscendC::DataCopyParams(static_cast<uint16_t>(rows), blocks<float>(heads_),
                                              blocks<float>(slots_.tile - heads_), 0));
    score_queue_.EnQue(in);
    if (now.first) {
      AscendC::Duplicate(largest, kLowest, heads_);
      AscendC::Duplicate(total, 0.0f, heads_);
    }
    in = score_queue_.template DeQue<float>();
    AscendC::Muls(value_, in, scale_, count);
    score_queue_.FreeTensor(in);
    reduce<true>(rows);
    AscendC::Max(top_, work_, largest, heads_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Sub(factor, largest, top_, heads_);
    spread(rows);
    AscendC::Sub(value_, value_, spread_, count);
    AscendC::Exp(factor, factor, heads_);
    AscendC::Muls(largest, top_, 1.0f, heads_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Exp(value_, value_, count);
    AscendC::PipeBarrier<PIPE_V>();
    if (rows > now.rows) AscendC::Duplicate(value_[now.rows * heads_], 0.0f, (rows - now.rows) * heads_);
    AscendC::PipeBarrier<PIPE_V>();
    hand_on(step, rows);
    reduce<false>(rows);
    AscendC::Mul(total, total, factor, heads_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(total, total, work_, heads_);
  }

  // The later half of the rows of value upon the earlier until one is left, in work.
  template <bool kMaximum>
  __aicore__ inline void reduce(int32_t rows) {
    F32 from = value_;
    while (rows > 1) {
      const int32_t half = rows / 2;
      AscendC::PipeBarrier<PIPE_V>();
      if constexpr (kMaximum) {
        AscendC::Max(work_, from, from[(rows - half) * heads_], half * heads_);
      } else {
        AscendC::Add(work_, from, from[(rows - half) * heads_], half * heads_);
      }
      from = work_;
      rows -= half;
    }
    AscendC::PipeBarrier<PIPE_V>();
  }

  // The top of every head on every row.
  __aicore__ inline void spread(int32_t rows) {
    AscendC::Muls(spread_, top_, 1.0f, heads_);
    for (int32_t done = 1; done < rows; done *= 2) {
      const int32_t left = rows - done;
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Muls(spread_[done * heads_], spread_, 1.0f, (left < done ? left : done) * heads_);
    }
    AscendC::PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void hand_on(int64_t step, int32_t rows) {
    const int32_t count = rows * heads_;
    AscendC::LocalTensor<T> out = weight_queue_.template AllocTensor<T>();
    narrow(out, value_, count);
    if (slots_.planes > 1) {  // what the rounding has left
      AscendC::PipeBarrier<PIPE_V>();
      widen(spread_, out, count);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Sub(spread_, value_, spread_, count);
      AscendC::PipeBarrier<PIPE_V>();
      narrow(out[kScores], spread_, count);
    }
    weight_queue_.EnQue(out);
    out = weight_queue_.template DeQue<T>();
    for (int32_t plane = 0; plane < slots_.planes; ++plane) {
      AscendC::DataCopy(
          slots_.weights_of(step)[plane * kPlaces * slots_.tile + first_], out[plane * kScores],
          AscendC::DataCopyParams(static_cast<uint16_t>(rows), blocks<T>(heads_), 0, blocks<T>(slots_.tile - heads_)));
    }
    AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(kWeightsFull);
    weight_queue_.FreeTensor(out);
  }

  // Step 5: a chunk of values of all heads after the other, as they lie in the workspace.
  __aicore__ inline void accumulate(int64_t step, bool first) {
    AscendC::CrossCoreWaitFlag<2, PIPE_MTE2>(kOutputFull);
    const int32_t count = heads_ * slots_.chunk;
    if (heads_ == 0) return;
    if (!first) widen_heads(factor_[step % 2]);
    for (int32_t at = 0; at < slots_.dim; at += slots_.chunk) {
      const F32 sum = sums_[at * heads_];
      F32 part = output_queue_.template AllocTensor<float>();
      AscendC::DataCopy(part, slots_.output_of(step)[at * slots_.tile + first_ * slots_.chunk], count);
      output_queue_.EnQue(part);
      part = output_queue_.template DeQue<float>();
      AscendC::PipeBarrier<PIPE_V>();
      if (first) {
        AscendC::Muls(sum, part, 1.0f, count);
      } else {
        AscendC::Mul(sum, sum, wide_, count);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Add(sum, sum, part, count);
      }
      output_queue_.FreeTensor(part);
    }
  }

  // A number of every head to a chunk of it.
  __aicore__ inline void widen_heads(const F32& heads) {
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Gather(wide_, heads, offset_.template ReinterpretCast<uint32_t>(), 0u, heads_ * slots_.chunk);
  }

  // Steps 6 and 7.
  __aicore__ inline void store(const AttentionStep& now) {
    const int32_t left = now.heads - first_, heads = left < heads_ ? left : heads_;
    if (heads <= 0) return;
    const int64_t head = now.head + first_;
    const F32 &largest = largest_[now.tile % 2], &total = total_[now.tile % 2];
    if (has_sink_) {
      F32 sink = sink_queue_.template AllocTensor<float>();
      AscendC::DataCopyPad(sink, sink_[head], one_run<float>(heads), AscendC::DataCopyPadExtParams<float>());
      sink_queue_.EnQue(sink);
      sink = sink_queue_.template DeQue<float>();
      AscendC::Sub(top_, sink, largest, heads);
      sink_queue_.FreeTensor(sink);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Exp(top_, top_, heads);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Add(total, total, top_, heads);
    }
    widen_heads(total);
    const int32_t count = heads_ * slots_.chunk;
    for (int32_t at = 0; at < slots_.dim; at += slots_.chunk) {
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Div(value_, sums_[at * heads_], wide_, count);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::LocalTensor<T> out = result_queue_.template AllocTensor<T>();
      narrow(out, value_, count);
      result_queue_.EnQue(out);
      out = result_queue_.template DeQue<T>();
      AscendC::DataCopyPad(out_[(now.token * num_heads_ + head) * slots_.dim + at], out,
                           AscendC::DataCopyExtParams(static_cast<uint16_t>(heads), slots_.chunk * sizeof(T), 0,
                                                      (slots_.dim - slots_.chunk) * sizeof(T), 0));
      result_queue_.FreeTensor(out);
    }
  }

  template <typename U>
  static __aicore__ inline uint16_t blocks(int32_t values) {
    return static_cast<uint16_t>(values * sizeof(U) / 32);
  }

  AscendC::TPipe pipe_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> score_queue_, output_queue_, sink_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> weight_queue_, result_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> sum_buffer_, work_buffer_, head_buffer_;
  AscendC::GlobalTensor<float> sink_;
  AscendC::GlobalTensor<T> out_;  // [num_tokens, num_heads, head_dim]
  // [head_dim / chunk, heads, chunk]; [rows, heads] of the next three; [heads, chunk]; of a head, by tile or step
  F32 sums_, value_, work_, spread_, wide_, largest_[2], total_[2], factor_[2], top_;
  AscendC::LocalTensor<int32_t> offset_;  // as wide
  PackedRows packed_;
  AttentionSlots<T> slots_;
  int64_t num_heads_;
  int32_t heads_, first_;  // of a tile, this core's
  float scale_;
  bool has_sink_;
};

__aicore__ inline void attention_plan(GM_ADDR cu_seqlens_q, GM_ADDR start_pos, GM_ADDR plan, int64_t num_tokens,
                                      int64_t num_seqs, int64_t window, int64_t width, int64_t topk, int64_t ratio,
                                      int64_t tiles, int64_t blocks) {
  AttentionShape shape{};
  shape.num_seqs = num_seqs, shape.window = window, shape.topk = topk, shape.ratio = ratio;
  shape.max_blocks = width, shape.block_size = 1;
  shape.num_heads = tiles, shape.tile = 1;
  QueryPlan<AttentionLists>(plan, AttentionLists(cu_seqlens_q, start_pos, shape), num_tokens, blocks).run();
}

template <typename T, bool kPacked = false>
__aicore__ inline void attention(GM_ADDR q, GM_ADDR window_kv, GM_ADDR window_table, GM_ADDR compressed_kv,
                                 GM_ADDR block_table, GM_ADDR topk_indices, GM_ADDR cu_seqlens_q, GM_ADDR start_pos,
                                 GM_ADDR attn_sink, GM_ADDR plan, GM_ADDR workspace, GM_ADDR out,
                                 const AttentionShape& shape, float scale, bool official) {
  const AttentionLists lists(cu_seqlens_q, start_pos, shape);
  if ASCEND_IS_AIC {
    const int64_t block = AscendC::GetBlockIdx();
    const AttentionSlots<T> slots(workspace, shape, official, block);
    AttentionProducts<T, kPacked>(q, window_kv, window_table, compressed_kv, block_table, shape, slots)
        .run(AttentionWalk(plan, topk_indices, lists, shape, block));
  }
  if ASCEND_IS_AIV {
    const int64_t block = AscendC::GetBlockIdx() / 2;
    const AttentionSlots<T> slots(workspace, shape, official, block);
    AttentionSoftmax<T, kPacked> softmax(attn_sink, out, shape, scale, slots);
    if constexpr (kPacked) softmax.read(window_kv, window_table, compressed_kv, block_table, shape);
    softmax.run(AttentionWalk(plan, topk_indices, lists, shape, block));
  }
}

}  // namespace v4npu

// What the kernels of the three take and hand on.
#define ATTENTION_PLAN_PARAMETERS                                                                              \
  GM_ADDR cu_seqlens_q, GM_ADDR start_pos, GM_ADDR plan, int64_t num_tokens, int64_t num_seqs, int64_t window, \
      int64_t width, int64_t topk, int64_t ratio, int64_t tiles, int64_t blocks
#define ATTENTION_PLAN_ARGUMENTS \
  cu_seqlens_q, start_pos, plan, num_tokens, num_seqs, window, width, topk, ratio, tiles, blocks
#define ATTENTION_PARAMETERS                                                                                        \
  GM_ADDR q, GM_ADDR window_kv, GM_ADDR window_table, GM_ADDR compressed_kv, GM_ADDR block_table,                   \
      GM_ADDR topk_indices, GM_ADDR cu_seqlens_q, GM_ADDR start_pos, GM_ADDR attn_sink, GM_ADDR plan,               \
      GM_ADDR workspace, GM_ADDR out, int64_t num_tokens, int64_t num_seqs, int64_t num_heads, int64_t head_dim,    \
      int64_t window_pages, int64_t window_block, int64_t window_stride, int64_t max_window_blocks, int64_t window, \
      int64_t entry_pages, int64_t block_size, int64_t block_stride, int64_t max_blocks, int64_t rope_dim,          \
      int64_t topk, int64_t ratio, int64_t tile, float scale, int32_t official
#define ATTENTION_ARGUMENTS                                                                                       \
  q, window_kv, window_table, compressed_kv, block_table, topk_indices, cu_seqlens_q, start_pos, attn_sink, plan, \
      workspace, out, {num_tokens,    num_seqs,          num_heads, head_dim,    window_pages, window_block,      \
                       window_stride, max_window_blocks, window,    entry_pages, block_size,   block_stride,      \
                       max_blocks,    rope_dim,          topk,      ratio,       tile},                           \
      scale, official != 0
