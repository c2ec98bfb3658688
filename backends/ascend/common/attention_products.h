// The cube core's half of attention.h, and where in the workspace the cores of a block meet.
#pragma once

#include "attention_lists.h"

namespace v4npu {

constexpr int32_t kMaxKvDim = 512;
constexpr int32_t kKvPiece = 128;  // of head_dim, in L0
constexpr uint16_t kScoresFull = 0, kWeightsFull = 1, kOutputFull = 2, kKeysFull = 3;

// What the cores of a block agree on.
template <typename T>
struct AttentionSlots {
  static constexpr int32_t kMaxTile = sizeof(T) == sizeof(float) ? 32 : 64;
  AscendC::GlobalTensor<float> scores, output;
  AscendC::GlobalTensor<T> weights, keys;
  int32_t tile, dim, chunk, planes;

  __aicore__ inline AttentionSlots(GM_ADDR workspace, const AttentionShape& shape, bool official, int64_t block)
      : tile(static_cast<int32_t>(shape.tile)), dim(static_cast<int32_t>(shape.head_dim)) {
    chunk = dim % 64 == 0 ? 64 : dim % 32 == 0 ? 32 : 16;
    planes = sizeof(T) == sizeof(float) || official ? 1 : 2;
    const int64_t softmax = 2 * kPlaces * tile, sums = 2 * dim * tile;
    const int64_t rows = 2 * kPlaces * dim * sizeof(T) / sizeof(float);
    __gm__ float* data = reinterpret_cast<__gm__ float*>(workspace) + block * (2 * softmax + sums + rows);
    scores.SetGlobalBuffer(data, softmax);
    weights.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(data + softmax), softmax * sizeof(float) / sizeof(T));
    output.SetGlobalBuffer(data + 2 * softmax, sums);
    keys.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(data + 2 * softmax + sums), 2 * kPlaces * dim);
  }
  __aicore__ inline AscendC::GlobalTensor<T> keys_of(int64_t step) const { return keys[step % 2 * kPlaces * dim]; }
  __aicore__ inline AscendC::GlobalTensor<float> scores_of(int64_t step) const {
    return scores[step % 2 * kPlaces * tile];
  }
  // The second plane lies kPlaces * tile behind the first.
  __aicore__ inline AscendC::GlobalTensor<T> weights_of(int64_t step) const {
    return weights[step % 2 * kPlaces * tile * (sizeof(float) / sizeof(T))];
  }
  __aicore__ inline AscendC::GlobalTensor<float> output_of(int64_t step) const { return output[step % 2 * dim * tile]; }
};

// Rows of a paged cache.
template <typename T>
struct AttentionPages {
  AscendC::GlobalTensor<T> data;
  AscendC::GlobalTensor<int32_t> table;  // [num_seqs, max_pages]
  int64_t rows, stride, max_pages;       // rows of a page, elements from one to the next

  __aicore__ inline void init_window(GM_ADDR pages, GM_ADDR pages_of, const AttentionShape& s, int64_t row) {
    init(pages, pages_of, s.window_pages, s.window_block, s.window_stride, s.max_window_blocks, s.num_seqs, row);
  }
  __aicore__ inline void init_entries(GM_ADDR pages, GM_ADDR pages_of, const AttentionShape& s, int64_t row) {
    init(pages, pages_of, s.entry_pages, s.block_size, s.block_stride, s.max_blocks, s.num_seqs, row);
  }
  __aicore__ inline int64_t page(int64_t sequence, int64_t index) const {
    return table.GetValue(sequence * max_pages + index / rows);
  }

 private:
  __aicore__ inline void init(GM_ADDR pages, GM_ADDR pages_of, int64_t num_pages, int64_t page_rows,
                              int64_t page_stride, int64_t most, int64_t num_seqs, int64_t row) {
    rows = page_rows, stride = page_stride, max_pages = most;
    if (num_pages > 0) data.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(pages), (num_pages - 1) * stride + rows * row);
    table.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(pages_of), num_seqs * max_pages);
  }
};

// Keys lie in L1 as slabs of 16 rows, each Nz, so that 16 x 16 values of either type are neighbours and transposable.
template <typename T, bool kPacked>
class AttentionProducts {
 public:
  __aicore__ inline AttentionProducts(GM_ADDR q, GM_ADDR window_kv, GM_ADDR window_table, GM_ADDR compressed_kv,
                                      GM_ADDR block_table, const AttentionShape& s, const AttentionSlots<T>& slots)
      : slots_(slots),
        num_heads_(s.num_heads),
        tile_(static_cast<uint16_t>(s.tile)),
        dim_(static_cast<uint16_t>(s.head_dim)) {
    q_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(q), s.num_tokens * s.num_heads * s.head_dim);
    if constexpr (!kPacked) window_.init_window(window_kv, window_table, s, s.head_dim);
    if constexpr (!kPacked) entries_.init_entries(compressed_kv, block_table, s, s.head_dim);
    pipe_.InitBuffer(key_queue_, kSlots, kPlaces * kMaxKvDim * sizeof(T));
    pipe_.InitBuffer(q_queue_, kSlots, kMaxTile * kMaxKvDim * sizeof(T));
    pipe_.InitBuffer(weight_queue_, 1, kPlaces * kMaxTile * sizeof(float));
    pipe_.InitBuffer(left_queue_, 2, kPlaces * kKvPiece * sizeof(T));
    pipe_.InitBuffer(right_queue_, 2, kPlaces * kKvPiece * sizeof(T));
    pipe_.InitBuffer(score_queue_, 1, kPlaces * kMaxTile * sizeof(float));
    pipe_.InitBuffer(output_queue_, 2, kMaxTile * kKvPiece * sizeof(float));
  }

  __aicore__ inline void run(AttentionWalk walk) {
    for (int32_t i = 0; i < kAhead; ++i) load(walk);
    if (loaded_ > 0) scores(0);
    for (int64_t step = 0; step < loaded_; ++step) {
      load(walk);
      if (step + 1 < loaded_) scores(step + 1);
      output(step);
    }
    if (loaded_ > 0) q_queue_.FreeTensor(query_);
  }

  // For AttentionWalk.
  __aicore__ inline void window(int64_t sequence, int64_t index, int64_t count) {
    gather(window_, sequence, index, count);
  }
  __aicore__ inline void entries(int64_t sequence, int64_t index, int64_t count) {
    gather(entries_, sequence, index, count);
  }

 private:
  using Local = AscendC::LocalTensor<T>;
  static constexpr int32_t kMaxTile = AttentionSlots<T>::kMaxTile;
  static constexpr int32_t kSlots =
      sizeof(T) == sizeof(float) ? 2 : 3;  // of keys, and of q: each step may have its own
  static constexpr int32_t kAhead = kSlots - 1;
  static constexpr int32_t kFractal = 16;            // rows
  static constexpr int32_t kBlock = 32 / sizeof(T);  // values of a row in a fractal

  // Steps 1 and 2 of the walk's next step.
  __aicore__ inline void load(AttentionWalk& walk) {
    if (!walk.next()) return;
    const AttentionStep& step = walk.step();
    steps_[loaded_++ % kSlots] = step;
    if (step.first) load_query(step);
    const Local keys = key_queue_.template AllocTensor<T>();
    gathered_ = keys, row_ = 0;
    if constexpr (kPacked) {
      AscendC::CrossCoreWaitFlag<2, PIPE_MTE2>(kKeysFull);
      take(slots_.keys_of(loaded_ - 1), step.rows);
    } else {
      walk.visit(*this);
    }
    while (row_ < step.padded()) take(first_row_, 1);
    key_queue_.EnQue(keys);
  }

  // As Nz; rows up to the tile repeat those before.
  __aicore__ inline void load_query(const AttentionStep& step) {
    const Local query = q_queue_.template AllocTensor<T>();
    const AscendC::GlobalTensor<T> source = q_[(step.token * num_heads_ + step.head) * dim_];
    for (int32_t head = 0; head < tile_; head += step.heads) {
      const int32_t left = tile_ - head, count = left < step.heads ? left : step.heads;
      AscendC::DataCopy(query[head * kBlock], source,
                        AscendC::Nd2NzParams(1, static_cast<uint16_t>(count), dim_, 0, dim_, tile_, 1, 0));
    }
    q_queue_.EnQue(query);
  }

  __aicore__ inline void gather(const AttentionPages<T>& pages, int64_t sequence, int64_t index, int64_t count) {
    while (count > 0) {
      const int64_t place = index % pages.rows, left = pages.rows - place, run = left < count ? left : count;
      take(pages.data[pages.page(sequence, index) * pages.stride + place * dim_], static_cast<int32_t>(run));
      index += run, count -= run;
    }
  }

  // The next rows of the step, which lie one after the other.
  __aicore__ inline void take(const AscendC::GlobalTensor<T>& source, int32_t count) {
    if (row_ == 0) first_row_ = source;
    for (int32_t done = 0; done < count;) {
      const int32_t place = row_ % kFractal, left = count - done;
      const int32_t run = kFractal - place < left ? kFractal - place : left;
      AscendC::DataCopy(gathered_[slab(row_ / kFractal) + place * kBlock], source[done * dim_],
                        AscendC::Nd2NzParams(1, static_cast<uint16_t>(run), dim_, 0, dim_, kFractal, 1, 0));
      row_ += run, done += run;
    }
  }
  __aicore__ inline int32_t slab(int32_t number) const { return number * kFractal * dim_; }
  __aicore__ inline uint16_t piece(uint16_t at) const {
    return static_cast<uint16_t>(dim_ - at < kKvPiece ? dim_ - at : kKvPiece);
  }

  // Step 3: rows are keys, columns heads. Nz of q in L1 is Zn of its transpose in L0B.
  __aicore__ inline void scores(int64_t step) {
    const auto rows = static_cast<uint16_t>(steps_[step % kSlots].padded());
    if (steps_[step % kSlots].first) {
      if (step > 0) q_queue_.FreeTensor(query_);
      query_ = q_queue_.template DeQue<T>();
    }
    const Local& keys = keys_[step % kSlots] = key_queue_.template DeQue<T>();
    AscendC::LocalTensor<float> sum = score_queue_.template AllocTensor<float>();
    for (uint16_t at = 0; at < dim_; at += kKvPiece) {
      Local left = left_queue_.template AllocTensor<T>();
      split_keys(left, keys, at, rows / kFractal, piece(at) / kBlock);
      left_queue_.EnQue(left);
      Local right = right_queue_.template AllocTensor<T>();
      AscendC::LoadData(right, query_[at * tile_],
                        AscendC::LoadData2DParams(0, static_cast<uint8_t>(tile_ / kFractal * (piece(at) / kBlock)), 1,
                                                  0, 0, false, 0));
      right_queue_.EnQue(right);
      left = left_queue_.template DeQue<T>();
      right = right_queue_.template DeQue<T>();
      AscendC::PipeBarrier<PIPE_M>();
      AscendC::Mmad(sum, left, right, AscendC::MmadParams(rows, tile_, piece(at), 0, false, at == 0));
      left_queue_.FreeTensor(left);
      right_queue_.FreeTensor(right);
    }
    score_queue_.EnQue(sum);
    sum = score_queue_.template DeQue<float>();
    AscendC::Fixpipe(slots_.scores_of(step), sum, AscendC::FixpipeParamsV220(tile_, rows, rows, tile_, false));
    AscendC::CrossCoreSetFlag<2, PIPE_FIX>(kScoresFull);
    score_queue_.FreeTensor(sum);
  }

  // Keys as the left operand, values [at, at + depth * kBlock) of each.
  __aicore__ inline void split_keys(const Local& left, const Local& keys, uint16_t at, uint16_t slabs, uint16_t depth) {
    for (uint16_t i = 0; i < slabs; ++i) {
#if __NPU_ARCH__ == 2201  // Zz: a row of fractals after the other
      AscendC::LoadData(left[i * depth * kFractal * kBlock], keys[slab(i) + at * kFractal],
                        AscendC::LoadData2DParams(0, static_cast<uint8_t>(depth), 1, 0, 0, false, 0));
#else  // Nz
      AscendC::LoadData(left[i * kFractal * kBlock], keys[slab(i) + at * kFractal],
                        AscendC::LoadData2DParamsV2(0, 0, 1, depth, 1, slabs, false, 0));
#endif
    }
  }

  // Step 5, the products: rows are heads, columns values.
  __aicore__ inline void output(int64_t step) {
    const auto rows = static_cast<uint16_t>(steps_[step % kSlots].padded());
    const uint16_t slabs = rows / kFractal;
    Local& keys = keys_[step % kSlots];
    Local left = load_weights(step, slabs);
    for (uint16_t at = 0; at < dim_; at += kKvPiece) {
      Local right = right_queue_.template AllocTensor<T>();
      split_values(right, keys, at, slabs, piece(at));
      right_queue_.EnQue(right);
      right = right_queue_.template DeQue<T>();
      AscendC::LocalTensor<float> sum = output_queue_.template AllocTensor<float>();
      for (int32_t plane = slots_.planes - 1; plane >= 0; --plane) {
        const bool first = plane == slots_.planes - 1;
        if (!first) AscendC::PipeBarrier<PIPE_M>();
        AscendC::Mmad(sum, left[plane * rows * tile_], right,
                      AscendC::MmadParams(tile_, piece(at), rows, 0, false, first));
      }
      right_queue_.FreeTensor(right);
      output_queue_.EnQue(sum);
      sum = output_queue_.template DeQue<float>();
      const auto chunk = static_cast<uint16_t>(slots_.chunk);
      for (uint16_t i = 0; i < piece(at); i += chunk) {
        AscendC::Fixpipe(slots_.output_of(step)[(at + i) * tile_], sum[i * tile_],
                         AscendC::FixpipeParamsV220(chunk, tile_, tile_, chunk, false));
      }
      output_queue_.FreeTensor(sum);
    }
    AscendC::CrossCoreSetFlag<2, PIPE_FIX>(kOutputFull);
    left_queue_.FreeTensor(left);
    key_queue_.FreeTensor(keys);
  }

  // Weights as the left operand, which they are the transpose of; planes one after the other.
  __aicore__ inline Local load_weights(int64_t step, uint16_t slabs) {
    const int32_t slab_size = kFractal * tile_;
    Local in = weight_queue_.template AllocTensor<T>();
    AscendC::CrossCoreWaitFlag<2, PIPE_MTE2>(kWeightsFull);
    for (int32_t plane = 0; plane < slots_.planes; ++plane) {
      for (int32_t i = 0; i < slabs; ++i) {
        AscendC::DataCopy(in[(plane * slabs + i) * slab_size],
                          slots_.weights_of(step)[plane * kPlaces * tile_ + i * slab_size],
                          AscendC::Nd2NzParams(1, kFractal, tile_, 0, tile_, kFractal, 1, 0));
      }
    }
    weight_queue_.EnQue(in);
    in = weight_queue_.template DeQue<T>();
    Local left = left_queue_.template AllocTensor<T>();
    for (int32_t plane = 0; plane < slots_.planes; ++plane) {
      for (int32_t i = 0; i < slabs; ++i) {
        const Local from = in[(plane * slabs + i) * slab_size];
        const int32_t start = plane * slabs * slab_size;
#if __NPU_ARCH__ == 2201  // Zz
        AscendC::LoadDataWithTranspose(left[start + i * kFractal * kFractal], from,
                                       AscendC::LoadData2dTransposeParams(0, static_cast<uint8_t>(tile_ / kFractal), 1,
                                                                          slabs * (kFractal / kBlock) - 1, 0, 0));
#else  // Nz
        AscendC::LoadData(left[start + i * slab_size], from,
                          AscendC::LoadData2DParamsV2(0, 0, 1, tile_ / kBlock, 1, tile_ / kFractal, true, 0));
#endif
      }
    }
    left_queue_.EnQue(left);
    weight_queue_.FreeTensor(in);
    return left_queue_.template DeQue<T>();
  }

  // Values [at, at + columns) of each row as the right operand.
  __aicore__ inline void split_values(const Local& right, const Local& keys, uint16_t at, uint16_t slabs,
                                      uint16_t columns) {
    const uint16_t squares = columns / kFractal;
    const uint16_t apart = kBlock < kFractal ? squares - 1 : 0;  // of the two fractals of a square of fp32
    for (uint16_t i = 0; i < slabs; ++i) {
      AscendC::LoadDataWithTranspose(
          right[i * kFractal * columns], keys[slab(i) + at * kFractal],
          AscendC::LoadData2dTransposeParams(0, static_cast<uint8_t>(squares), 1, 0, apart, 0));
    }
  }

  AscendC::TPipe pipe_;
  AscendC::TQue<AscendC::TPosition::A1, kAhead> key_queue_;
  AscendC::TQue<AscendC::TPosition::B1, kAhead> q_queue_;
  AscendC::TQue<AscendC::TPosition::A1, 1> weight_queue_;
  AscendC::TQue<AscendC::TPosition::A2, 1> left_queue_;
  AscendC::TQue<AscendC::TPosition::B2, 1> right_queue_;
  AscendC::TQue<AscendC::TPosition::CO1, 1> score_queue_, output_queue_;
  AscendC::GlobalTensor<T> q_, first_row_;  // [num_tokens, num_heads, head_dim]
  AttentionPages<T> window_, entries_;
  AttentionSlots<T> slots_;
  AttentionStep steps_[kSlots];
  Local keys_[kSlots], gathered_, query_;
  int64_t num_heads_, loaded_ = 0;
  int32_t row_ = 0;  // of the step that is being loaded
  uint16_t tile_, dim_;
};

}  // namespace v4npu
