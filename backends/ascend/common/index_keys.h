// Index keys in pages, and where the cores of a block meet that multiply queries by them (indexer_scores_kernel.asc).
#pragma once

#include "dequantise.h"
#include "query_plan.h"

namespace v4npu {

constexpr int32_t kMaxIndexHeads = 64;
constexpr int32_t kMaxIndexDim = 128;
constexpr int32_t kIndexQueries = 8;                         // at most that share a tile of keys
constexpr int32_t kHalfTile = kTileEntries / 2;              // of a vector core
constexpr int32_t kDotSlots = 2;                             // of the workspace of a block
constexpr int32_t kDotSlot = kMaxIndexHeads * kTileEntries;  // floats
constexpr uint16_t kDotsFull = 0;                            // cube to vector
constexpr uint16_t kDotsVacant = 1;                          // vector to cube
constexpr uint16_t kIndexKeysFull = 2;                       // vector to cube
constexpr int32_t kKeySlot = kTileEntries * kMaxIndexDim;    // values

struct IndexerShape {
  int64_t num_tokens, num_heads, head_dim, num_blocks, block_size, block_stride, max_blocks, num_seqs, ratio,
      first_token;
  __aicore__ inline int64_t width() const { return max_blocks * block_size; }
};

// The part of the workspace where the cores of a block meet: products, and keys that were packed.
template <typename T, bool kPacked>
struct IndexerSlots {
  AscendC::GlobalTensor<float> dots;  // [kDotSlots, kMaxIndexHeads, kTileEntries]
  AscendC::GlobalTensor<T> keys;      // [kDotSlots, kTileEntries, head_dim]

  __aicore__ inline IndexerSlots(GM_ADDR workspace, int64_t block) {
    constexpr int64_t kDots = kDotSlots * kDotSlot, kKeys = kPacked ? kDotSlots * kKeySlot * sizeof(T) / 4 : 0;
    __gm__ float* data = reinterpret_cast<__gm__ float*>(workspace) + block * (kDots + kKeys);
    dots.SetGlobalBuffer(data, kDots);
    if (kPacked) keys.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(data + kDots), kDotSlots * kKeySlot);
  }
};

// Rows [row, last) of a tile, a run in one page at a time. Beyond the entries come other rows of their last page: of no
// meaning, and their scores are stored nowhere.
class TileRows {
 public:
  __aicore__ inline TileRows(const PlannedTiles& tiles, int64_t block_size, int32_t row, int32_t last)
      : entry_(tiles.entry()),
        block_size_(block_size),
        last_page_((tiles.entry() + tiles.entries() - 1) / block_size),
        row_(row),
        last_(last) {}

  // Whether there is one more; the other members are then about it.
  __aicore__ inline bool next() {
    row_ += count_;
    if (row_ >= last_) return false;
    const int64_t wanted = (entry_ + row_) / block_size_;
    page_ = wanted <= last_page_ ? wanted : last_page_;
    place_ = wanted <= last_page_ ? (entry_ + row_) % block_size_ : 0;
    const int64_t left = block_size_ - place_;
    count_ = static_cast<int32_t>(left < last_ - row_ ? left : last_ - row_);
    return true;
  }
  __aicore__ inline int32_t row() const { return row_; }
  __aicore__ inline int32_t count() const { return count_; }
  __aicore__ inline int64_t page() const { return page_; }    // of the sequence
  __aicore__ inline int64_t place() const { return place_; }  // in the page

 private:
  int64_t entry_, block_size_, last_page_, page_ = 0, place_ = 0;
  int32_t row_, last_, count_ = 0;
};

// Keys in pages that are not packed: the cube core reads them.
struct PlainIndexKeys {
  static constexpr bool kPacked = false;
  template <typename Slots>
  __aicore__ inline PlainIndexKeys(GM_ADDR, GM_ADDR, const Slots&, const IndexerShape&) {}
  __aicore__ inline void init(AscendC::TPipe&) {}
  __aicore__ inline void expand(const PlannedTiles&, int64_t) {}
};

// Packed ones (csrc/include/v4npu/row_format.h, fp4_key and fp8_key), which the vector cores expand to bf16.
template <typename Format>
class PackedIndexKeys {
 public:
  static constexpr bool kPacked = true;

  __aicore__ inline PackedIndexKeys(GM_ADDR keys, GM_ADDR block_table, const IndexerSlots<bfloat16_t, true>& slots,
                                    const IndexerShape& shape)
      : shape_(shape), slots_(slots) {
    payload_ = shape.head_dim / Format::kPerByte;
    scales_ = (shape.head_dim + Format::kGroup - 1) / Format::kGroup * Format::kScaleBytes;
    if (shape.num_blocks > 0) {
      keys_.SetGlobalBuffer(keys,
                            (shape.num_blocks - 1) * shape.block_stride + shape.block_size * (payload_ + scales_));
    }
    table_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(block_table), shape.num_seqs * shape.max_blocks);
  }

  __aicore__ inline void init(AscendC::TPipe& pipe) {
    pipe_ = &pipe;
    rows_.init(pipe);
  }

  // This core's half of the tile of that number, into a slot whose keys the cube core has taken.
  __aicore__ inline void expand(const PlannedTiles& tiles, int64_t number_of_tile) {
    const int32_t first = static_cast<int32_t>(AscendC::GetSubBlockIdx()) * kHalfTile;
    const bool wanted = first < tiles.entries();
    TileRows rows(tiles, shape_.block_size, first, wanted ? first + kHalfTile : first);
    while (rows.next()) {
      const int64_t number = table_.GetValue(tiles.sequence() * shape_.max_blocks + rows.page());
      const int64_t page = number * shape_.block_stride, behind = page + shape_.block_size * payload_;
      rows_.convert(keys_[page + rows.place() * payload_], payload_, keys_[behind + rows.place() * scales_], scales_,
                    rows.count(), static_cast<int32_t>(shape_.head_dim),
                    slots_.keys[number_of_tile % kDotSlots * kKeySlot + rows.row() * shape_.head_dim], shape_.head_dim);
    }
    if (!wanted) pass<AscendC::HardEvent::MTE2_MTE3>(*pipe_);  // behind what this core has waited for
    AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(kIndexKeysFull);
  }

 private:
  AscendC::TPipe* pipe_ = nullptr;
  RowDequantiser<Format, bfloat16_t> rows_;
  IndexerShape shape_;
  IndexerSlots<bfloat16_t, true> slots_;
  AscendC::GlobalTensor<uint8_t> keys_;  // pages
  AscendC::GlobalTensor<int32_t> table_;
  int64_t payload_, scales_;  // bytes of a row
};

}  // namespace v4npu
