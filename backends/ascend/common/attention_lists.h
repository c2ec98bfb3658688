// Whose rows a query attends to, for window_attention, csa_attention and hca_attention: a list of places, first its
// window's, then its entries'; and how lists are dealt to cores. A list is walked in steps of kPlaces places, for a
// tile of heads at a time. Tiles of a token are whole: its work in the plan (query_plan.h) is the steps of all of them,
// and a tile belongs to the block that has the first of its steps.
#pragma once

#include "query_plan.h"

namespace v4npu {

constexpr int32_t kPlaces = 64;  // of a step, by contract

struct AttentionShape {
  int64_t num_tokens, num_seqs, num_heads, head_dim;
  int64_t window_pages, window_block, window_stride, max_window_blocks, window;
  int64_t entry_pages, block_size, block_stride, max_blocks;
  int64_t rope_dim;  // of packed rows
  int64_t topk;      // picks of a token; 0: it has none
  int64_t ratio;     // every `ratio` tokens complete an entry that is seen; 0: none is
  int64_t tile;      // heads: 16, 32 or 64

  __aicore__ inline int64_t tiles() const { return (num_heads + tile - 1) / tile; }
  __aicore__ inline int64_t width() const { return max_blocks * block_size; }
};

class AttentionLists : public QueryTokens {
 public:
  __aicore__ inline AttentionLists(GM_ADDR cu_seqlens_q, GM_ADDR start_pos, const AttentionShape& shape)
      : QueryTokens(cu_seqlens_q, start_pos, shape.num_seqs), shape_(shape) {}

  // Of a token of this sequence: how many rows its window has, and how many places its list.
  __aicore__ inline int64_t seen(int64_t token) const {
    return position(token) + 1 < shape_.window ? position(token) + 1 : shape_.window;
  }
  __aicore__ inline int64_t places(int64_t token) const {
    if (shape_.ratio == 0) return shape_.window + shape_.topk;
    const int64_t entries = (position(token) + 1) / shape_.ratio;
    return shape_.window + (entries < shape_.width() ? entries : shape_.width());
  }
  __aicore__ inline int64_t steps(int64_t token) const { return (places(token) + kPlaces - 1) / kPlaces; }
  __aicore__ inline int64_t tiles(int64_t token) const { return steps(token) * shape_.tiles(); }

 private:
  AttentionShape shape_;
};

struct AttentionStep {
  int64_t token = 0;
  int32_t head = 0, heads = 0;  // of the tile
  int32_t tile = 0;             // its number in this block
  int32_t rows = 0;             // places of the step that have a row
  bool first = false;           // of the tile
  // Rows of the last 16 that are missing repeat the first one.
  __aicore__ inline int32_t padded() const { return (rows + 15) / 16 * 16; }
};

// The steps of one block in order, less those without a row.
class AttentionWalk {
 public:
  __aicore__ inline AttentionWalk(GM_ADDR plan, GM_ADDR topk_indices, const AttentionLists& lists,
                                  const AttentionShape& shape, int64_t block)
      : lists_(lists), shape_(shape) {
    picks_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(topk_indices), shape.num_tokens * shape.topk);
    AscendC::GlobalTensor<int32_t> words;
    words.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(plan), kPlanWords);
    const int64_t at = block * kPlanRecord;
    lists_.select(words.GetValue(at));
    token_ = words.GetValue(at + 1);
    const int64_t work = words.GetValue(at + 2);
    last_token_ = words.GetValue(at + kPlanRecord + 1);
    last_work_ = words.GetValue(at + kPlanRecord + 2);
    if (token_ < shape_.num_tokens && lists_.reach(token_))
      tile_ = (work + lists_.steps(token_) - 1) / lists_.steps(token_);
  }

  // Whether there is one more; the other members are then about it.
  __aicore__ inline bool next() {
    for (place_ += kPlaces; mine(); place_ = 0, ++tile_) {
      for (; place_ < lists_.places(token_); place_ += kPlaces) {
        const int32_t rows = rows_here();
        if (rows == 0) continue;
        const int64_t head = tile_ * shape_.tile, left = shape_.num_heads - head;
        step_.first = place_ == 0;  // a token sees itself, so the first step has a row
        if (step_.first) ++step_.tile;
        step_.token = token_;
        step_.head = static_cast<int32_t>(head);
        step_.heads = static_cast<int32_t>(left < shape_.tile ? left : shape_.tile);
        step_.rows = rows;
        return true;
      }
    }
    return false;
  }

  __aicore__ inline const AttentionStep& step() const { return step_; }
  __aicore__ inline int32_t sequence() const { return lists_.sequence(); }

  // The rows of the step, in order and in runs: rows.window(sequence, index, count), rows.entries(..).
  template <typename Rows>
  __aicore__ inline void visit(Rows& rows) const {
    for (int64_t place = place_; place < end();) {
      const int64_t window_end = seen() < end() ? seen() : end();
      if (place < window_end) {
        rows.window(sequence(), position(place), window_end - place);
        place = window_end;
      } else if (place < shape_.window) {
        place = shape_.window;
      } else {
        const int64_t index = entry(place), count = shape_.ratio == 0 ? 1 : end() - place;
        if (index >= 0) rows.entries(sequence(), index, count);
        place += count;
      }
    }
  }

 private:
  __aicore__ inline int64_t end() const {
    const int64_t places = lists_.places(token_);
    return place_ + kPlaces < places ? place_ + kPlaces : places;
  }
  __aicore__ inline int64_t seen() const { return lists_.seen(token_); }
  __aicore__ inline int64_t position(int64_t place) const {
    return lists_.position(token_) + 1 - lists_.seen(token_) + place;
  }
  // Of a place behind the window; -1: none. A pick behind the table, which nobody can refuse without waiting, is none.
  __aicore__ inline int64_t entry(int64_t place) const {
    const int64_t i = place - shape_.window;
    if (shape_.ratio != 0) return i;
    const int64_t pick = picks_.GetValue(token_ * shape_.topk + i);
    return pick < shape_.width() ? pick : -1;
  }

  // Goes on to the next tile if the token has no more; whether the tile is this block's.
  __aicore__ inline bool mine() {
    if (tile_ >= shape_.tiles()) ++token_, tile_ = 0;
    while (token_ < last_token_ && !lists_.reach(token_)) ++token_;
    if (token_ < last_token_) return true;
    return token_ == last_token_ && last_work_ > 0 && lists_.reach(token_) && tile_ * lists_.steps(token_) < last_work_;
  }

  __aicore__ inline int32_t rows_here() const {
    int64_t rows = seen() < end() ? seen() : end();
    rows = rows > place_ ? rows - place_ : 0;
    int64_t from = place_ > shape_.window ? place_ : shape_.window;
    if (shape_.ratio != 0) return static_cast<int32_t>(rows + (end() > from ? end() - from : 0));
    for (; from < end(); ++from) rows += entry(from) >= 0 ? 1 : 0;
    return static_cast<int32_t>(rows);
  }

  AscendC::GlobalTensor<int32_t> picks_;  // [num_tokens, topk]
  AttentionLists lists_;
  AttentionShape shape_;
  AttentionStep step_;
  int64_t token_, last_token_, last_work_, tile_ = 0, place_ = -kPlaces;
};

}  // namespace v4npu
