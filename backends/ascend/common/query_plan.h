// How queries over paged entries are dealt to cores: in tiles of work, mostly entries that a query sees, by a plan that
// lies on the device. What a query sees follows from lengths, which only the device knows; so a kernel of its own makes
// the plan, and graphs that hold both launches can be replayed on other lengths.
//
// The plan is int32[kPlanWords], whatever the lengths. Record c, kPlanRecord words of it, is where block c begins and
// block c - 1 ends: the sequence, its token and the tile of its work. No two blocks differ by more than one tile. Where
// tokens of a sequence are taken together, a tile is one for them all, the token their first; the last word of a record
// is how many they are at most.
#pragma once

#include "rows.h"

namespace v4npu {

constexpr int32_t kPlanWords = 1024;
constexpr int32_t kPlanRecord = 4;
constexpr int32_t kTileEntries = 64;

// Tokens of sequences; they come in ascending order. Token 0 is the call's `first_token`.
class QueryTokens {
 public:
  __aicore__ inline QueryTokens(GM_ADDR cu_seqlens_q, GM_ADDR start_pos, int64_t num_seqs, int64_t first_token = 0)
      : num_seqs_(static_cast<int32_t>(num_seqs)), first_token_(first_token) {
    cu_seqlens_q_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(cu_seqlens_q), num_seqs + 1);
    start_pos_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(start_pos), num_seqs);
    select(0);
  }

  __aicore__ inline void select(int32_t sequence) {
    sequence_ = sequence;
    if (sequence_ >= num_seqs_) return;
    first_ = cu_seqlens_q_.GetValue(sequence) - first_token_;
    last_ = cu_seqlens_q_.GetValue(sequence + 1) - first_token_;
    start_ = start_pos_.GetValue(sequence);
  }

  // Goes on to the sequence of the token; false if there is none.
  __aicore__ inline bool reach(int64_t token) {
    while (sequence_ < num_seqs_ && token >= last_) select(sequence_ + 1);
    return sequence_ < num_seqs_ && token >= first_;
  }

  __aicore__ inline void take_together(int64_t tokens) { together_ = tokens; }

  // Of a token of this sequence and of those taken together with it: where they end.
  __aicore__ inline int64_t behind(int64_t token) const {
    return token + together_ < last_ ? token + together_ : last_;
  }

  __aicore__ inline int32_t sequence() const { return sequence_; }
  __aicore__ inline int64_t first() const { return first_; }                 // token of this sequence
  __aicore__ inline int64_t start() const { return start_; }                 // its position
  __aicore__ inline int64_t end() const { return start_ + last_ - first_; }  // the position behind the last

  // Of a token of this sequence.
  __aicore__ inline int64_t position(int64_t token) const { return start_ + token - first_; }

 private:
  AscendC::GlobalTensor<int32_t> cu_seqlens_q_, start_pos_;
  int32_t num_seqs_, sequence_ = 0;
  int64_t first_token_, first_ = 0, last_ = 0, start_ = 0, together_ = 1;
};

// The entries that a token sees.
class VisibleEntries : public QueryTokens {
 public:
  // width: entries that a sequence has room for.
  __aicore__ inline VisibleEntries(GM_ADDR cu_seqlens_q, GM_ADDR start_pos, int64_t num_seqs, int64_t ratio,
                                   int64_t width, int64_t first_token)
      : QueryTokens(cu_seqlens_q, start_pos, num_seqs, first_token), ratio_(ratio), width_(width) {}

  // Of a token of this sequence.
  __aicore__ inline int64_t of(int64_t token) const {
    const int64_t entries = (position(token) + 1) / ratio_;
    return entries < width_ ? entries : width_;
  }
  __aicore__ inline int64_t tiles(int64_t token) const { return (of(token) + kTileEntries - 1) / kTileEntries; }

 private:
  int64_t ratio_, width_;
};

// Writes the plan for `blocks` blocks of tokens that have tiles(token) of work; one vector core. UB: 4096 bytes. At
// most `together` tokens are taken together: fewer where that left a block less than kFewTiles tiles.
template <typename Work>
class QueryPlan {
 public:
  __aicore__ inline QueryPlan(GM_ADDR plan, const Work& work, int64_t num_tokens, int64_t blocks, int64_t together = 1)
      : work_(work), num_tokens_(num_tokens), blocks_(blocks), together_(together) {
    plan_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(plan), kPlanWords);
    pipe_.InitBuffer(buffer_, kPlanWords * sizeof(int32_t));
    words_ = buffer_.template Get<int32_t>();
  }

  __aicore__ inline void run() {
    AscendC::Duplicate(words_, 0, kPlanWords);
    pass<AscendC::HardEvent::V_S>(pipe_);
    int64_t all = total(), done = 0, block = 0;
    for (; together_ > 1 && all < kFewTiles * blocks_; all = total()) together_ /= 2;
    work_.select(0);
    for (int64_t token = 0, behind = 0; token < num_tokens_ && done < all; token = behind) {
      const int64_t tiles = tiles_of(token, behind);
      for (; block < blocks_ && all * block / blocks_ < done + tiles; ++block)
        record(block, work_.sequence(), token, all * block / blocks_ - done);
      done += tiles;
    }
    for (; block <= blocks_; ++block) record(block, 0, num_tokens_, 0);  // nothing is left
    pass<AscendC::HardEvent::S_MTE3>(pipe_);
    AscendC::DataCopy(plan_, words_, kPlanWords);
  }

 private:
  static constexpr int64_t kFewTiles = 8;

  // Those of the last token of them that are taken together, which end at `behind`.
  __aicore__ inline int64_t tiles_of(int64_t token, int64_t& behind) {
    behind = token + 1;
    if (!work_.reach(token)) return 0;
    behind = work_.behind(token) < num_tokens_ ? work_.behind(token) : num_tokens_;
    return work_.tiles(behind - 1);
  }
  __aicore__ inline int64_t total() {
    int64_t sum = 0, most = 1;
    work_.take_together(together_);
    work_.select(0);
    for (int64_t token = 0, behind = 0; token < num_tokens_; token = behind) {
      sum += tiles_of(token, behind);
      if (behind - token > most) most = behind - token;
    }
    together_ = most;
    return sum;
  }
  __aicore__ inline void record(int64_t block, int32_t sequence, int64_t token, int64_t tile) {
    const auto at = static_cast<uint32_t>(block * kPlanRecord);
    words_.SetValue(at, sequence);
    words_.SetValue(at + 1, static_cast<int32_t>(token));
    words_.SetValue(at + 2, static_cast<int32_t>(tile));
    words_.SetValue(at + 3, static_cast<int32_t>(together_));
  }

  AscendC::TPipe pipe_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer_;
  AscendC::GlobalTensor<int32_t> plan_;
  AscendC::LocalTensor<int32_t> words_;
  Work work_;
  int64_t num_tokens_, blocks_, together_;
};

// The tiles of one block, in order.
class PlannedTiles {
 public:
  __aicore__ inline PlannedTiles(GM_ADDR plan, const VisibleEntries& visible, int64_t num_tokens, int64_t block)
      : visible_(visible), num_tokens_(num_tokens) {
    AscendC::GlobalTensor<int32_t> words;
    words.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(plan), kPlanWords);
    const int64_t at = block * kPlanRecord;
    visible_.select(words.GetValue(at));
    visible_.take_together(words.GetValue(at + 3));
    token_ = words.GetValue(at + 1);
    tile_ = words.GetValue(at + 2);
    last_token_ = words.GetValue(at + kPlanRecord + 1);
    last_tile_ = words.GetValue(at + kPlanRecord + 2);
  }

  // Whether there is one more; the other members are then about it.
  __aicore__ inline bool next() {
    if (begun_) ++tile_;
    begun_ = true;
    while (token_ < last_token_ || (token_ == last_token_ && tile_ < last_tile_)) {
      behind_ = token_ + 1;
      if (visible_.reach(token_)) {
        behind_ = visible_.behind(token_) < num_tokens_ ? visible_.behind(token_) : num_tokens_;
        if (entries(behind_ - 1) > 0) return true;
      }
      token_ = behind_;
      tile_ = 0;
    }
    return false;
  }
  __aicore__ inline int32_t sequence() const { return visible_.sequence(); }
  __aicore__ inline int64_t token() const { return token_; }                // the first of those taken together
  __aicore__ inline int64_t behind() const { return behind_; }              // their end
  __aicore__ inline int64_t entry() const { return tile_ * kTileEntries; }  // the first
  __aicore__ inline int32_t entries() const { return entries(behind_ - 1); }

  // Those that one of the tokens sees, none or less among them; the later sees no fewer.
  __aicore__ inline int32_t entries(int64_t token) const {
    const int64_t left = visible_.of(token) - entry();
    return static_cast<int32_t>(left < kTileEntries ? left : kTileEntries);
  }

 private:
  VisibleEntries visible_;
  int64_t num_tokens_, token_, tile_, last_token_, last_tile_, behind_ = 0;
  bool begun_ = false;
};

}  // namespace v4npu
