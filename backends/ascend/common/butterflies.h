// The Walsh-Hadamard transform of a tile of rows, in fp32 in the UB.
//
// A pass adds and subtracts neighbours, all of a tile at once, and puts sums in its first half and differences in the
// second: the lowest bit of the index moves to the top. After log2(n) passes every bit of the column has been the
// lowest once, in order, and column stands before row; the last gather turns that round.
#pragma once

#include "rows.h"

namespace v4npu {

// Rows of n values, a power of two of at most 2048. UB in bytes: values 2 x 8192   offsets 2 x 4096, 8192   total 32768
class Butterflies {
  using F32 = AscendC::LocalTensor<float>;

 public:
  static constexpr int32_t kTile = 2048;

  // For a block that has num_rows rows. Nothing is needed between this and the first run() but a barrier.
  __aicore__ inline void init(AscendC::TPipe& pipe, int64_t num_rows, int32_t n) {
    n_ = n;
    // Half a tile is whole blocks of 32 bytes.
    while (tile_rows_ * n < kTile && (tile_rows_ < num_rows || tile_rows_ * n < 2 * kSlot)) tile_rows_ *= 2;
    pipe.InitBuffer(value_buffer_, 2 * kTile * sizeof(float));
    pipe.InitBuffer(offset_buffer_, 2 * kTile * sizeof(uint32_t));
    value_ = value_buffer_.Get<float>();
    even_ = value_[kTile];
    odd_ = value_[kTile + kTile / 2];
    pair_offset_ = offset_buffer_.Get<int32_t>();
    odd_offset_ = pair_offset_[kTile / 2];
    place_offset_ = pair_offset_[kTile];
    make_tables();
  }

  __aicore__ inline int32_t tile_rows() const { return tile_rows_; }
  __aicore__ inline const F32& values() const { return value_; }  // where a tile goes
  __aicore__ inline const F32& result() const { return even_; }   // and comes out

  // Steps 2 and 3 of hadamard.h for the first `count` values; after a barrier, and ends with one.
  __aicore__ inline void run(float factor, int32_t count) {
    const int32_t pairs = tile_rows_ * n_ / 2;
    for (int32_t bit = 1; bit < n_; bit *= 2) {
      AscendC::Gather(even_, value_, uint32(pair_offset_), 0u, pairs);
      AscendC::Gather(odd_, value_, uint32(odd_offset_), 0u, pairs);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Add(value_, even_, odd_, pairs);
      AscendC::Sub(value_[pairs], even_, odd_, pairs);
      AscendC::PipeBarrier<PIPE_V>();
    }
    AscendC::Gather(even_, value_, uint32(place_offset_), 0u, count);  // and odd_
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(even_, even_, factor, count);
    AscendC::PipeBarrier<PIPE_V>();
  }

 private:
  static constexpr int32_t kSlot = 8;  // floats in a block of 32 bytes

  static __aicore__ inline AscendC::LocalTensor<uint32_t> uint32(const AscendC::LocalTensor<int32_t>& t) {
    return t.template ReinterpretCast<uint32_t>();
  }

  // Byte offsets: of the values of each pair, and of where the passes leave each value of the tile. A gather has none
  // of its own that is not a whole block of 32 bytes.
  __aicore__ inline void make_tables() {
    const AscendC::LocalTensor<int32_t> row = even_.template ReinterpretCast<int32_t>();  // and odd_
    const int32_t count = tile_rows_ * n_, pairs = count / 2;
    uint32_t bits = 0;
    while ((1 << bits) < n_) ++bits;
    AscendC::CreateVecIndex(pair_offset_, 0, pairs);
    AscendC::CreateVecIndex(place_offset_, 0, count);
    AscendC::Duplicate(value_, 0.0f, count);  // rows that a last tile lacks
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(pair_offset_, pair_offset_, 8, pairs);
    AscendC::ShiftRight(uint32(row), uint32(place_offset_), bits, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(odd_offset_, pair_offset_, 4, pairs);
    // (column * rows + row) * 4 of index = row * n + column
    AscendC::Muls(place_offset_, place_offset_, 4 * tile_rows_, count);
    AscendC::Muls(row, row, 4 - 4 * tile_rows_ * n_, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(place_offset_, place_offset_, row, count);
  }

  AscendC::TBuf<AscendC::TPosition::VECCALC> value_buffer_, offset_buffer_;
  F32 value_, even_, odd_;
  AscendC::LocalTensor<int32_t> pair_offset_, odd_offset_, place_offset_;
  int32_t n_, tile_rows_ = 1;
};

}  // namespace v4npu
