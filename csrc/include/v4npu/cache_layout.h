// The paged cache, every backend's: what a row, a page and a block hold. Sizes in bytes unless said otherwise.
//
// A sequence owns blocks of `block_tokens` tokens (a multiple of every ratio) and one fixed-size state:
//   entry block   per CSA layer a page of entries and a page of index keys, per HCA layer a page of entries
//   window block  per layer a page of the raw KV rows of its tokens; per CSA layer the overlap rows (below) at its end.
//                 Only the blocks that the next query can see are kept, unless a policy retains more.
//   open state    per compressor a ring of kv and score rows: the windows that are not complete yet
// A pool is an array of such blocks; a page of one layer is a slice of each, so its stride is the block's size.
//
// What a page holds, and the formats of its rows: row_format.h.
//
// Everything at a block boundary follows from the window blocks before it: HCA windows are complete there, and a CSA
// window needs the kv and score rows (first half of the columns) of the `ratio` tokens before, its overlap rows.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "v4npu/row_format.h"

namespace v4npu {

constexpr int64_t kKeepTokens = 8;  // a sequence can step back this far without recomputing anything

inline RowFormat row_format(const std::string& name, int64_t dim, int64_t rope_dim, int64_t element) {
  if (name == "plain") return plain_row(dim, element);
  if (name == "fp8_kv") return fp8_kv_row(dim, rope_dim);
  if (name == "fp4_key") return fp4_key_row(dim);
  if (name == "fp8_key") return fp8_key_row(dim);
  if (name == "fp8_row") return fp8_row(dim);
  if (name == "fp4_row") return fp4_row(dim);
  throw std::invalid_argument("row format must be plain, fp8_kv, fp4_key, fp8_key, fp8_row or fp4_row, got \"" + name +
                              "\"");
}

struct CacheGeometry {
  int64_t block_tokens = 128;
  int64_t head_dim = 512;
  int64_t index_head_dim = 128;
  RowFormat window, entry, key;
  int64_t state_element = 4;    // of kv and score rows
  std::vector<int64_t> ratios;  // per layer, 0 = window only
  std::vector<bool> overlaps;   // per layer: overlapping windows and an indexer (CSA)
};

// Byte offsets inside the blocks; -1 = the layer has no such page.
struct LayerLayout {
  int64_t entries = -1, keys = -1;                         // entry block
  int64_t window = -1, overlap = -1, index_overlap = -1;   // window block
  int64_t state = -1, index_state = -1;                    // open state
  int64_t entries_per_block = 0;                           // rows of the pages of entries and keys
  int64_t state_rows = 0, state_cols = 0, index_cols = 0;  // [2, state_rows, cols]: kv, score
  int64_t overlap_rows = 0;                                // [2, overlap_rows, cols / 2]
};

struct CacheLayout {
  std::vector<LayerLayout> layers;
  int64_t entry_block = 0, window_block = 0, open_state = 0;
};

namespace detail {
inline int64_t place(int64_t& size, int64_t bytes) {
  const int64_t at = size;
  size += round_up(bytes, kPageAlign);
  return at;
}
}  // namespace detail

inline CacheLayout cache_layout(const CacheGeometry& g) {
  if (g.block_tokens < 1) throw std::invalid_argument("block_tokens must be positive");
  if (g.ratios.size() != g.overlaps.size()) throw std::invalid_argument("overlaps must have one value per ratio");
  CacheLayout out;
  for (size_t i = 0; i < g.ratios.size(); ++i) {
    const int64_t ratio = g.ratios[i];
    LayerLayout l;
    l.window = detail::place(out.window_block, g.window.page(g.block_tokens));
    if (ratio > 0) {
      if (g.block_tokens % ratio != 0) {
        throw std::invalid_argument("block_tokens must be a multiple of every ratio, got " +
                                    std::to_string(g.block_tokens) + " and " + std::to_string(ratio));
      }
      const int64_t coff = g.overlaps[i] ? 2 : 1;
      l.entries_per_block = g.block_tokens / ratio;
      l.state_rows = coff * ratio + kKeepTokens;
      l.state_cols = coff * g.head_dim;
      l.entries = detail::place(out.entry_block, g.entry.page(l.entries_per_block));
      l.state = detail::place(out.open_state, 2 * l.state_rows * l.state_cols * g.state_element);
      if (g.overlaps[i]) {
        l.index_cols = coff * g.index_head_dim;
        l.overlap_rows = ratio;
        l.keys = detail::place(out.entry_block, g.key.page(l.entries_per_block));
        l.index_state = detail::place(out.open_state, 2 * l.state_rows * l.index_cols * g.state_element);
        l.overlap = detail::place(out.window_block, ratio * l.state_cols * g.state_element);
        l.index_overlap = detail::place(out.window_block, ratio * l.index_cols * g.state_element);
      }
    }
    out.layers.push_back(l);
  }
  return out;
}

}  // namespace v4npu
