// The rows of a token's list on their way to the tile of attention.cuh. Of each block of 64 places a warp has 8. Which
// page a row lies on takes two loads, one waiting for the other, so its 32 lanes look that up for four blocks at once.
// Rows then come to shared memory as they lie, in the background, while the places before them are worked on: the first
// p.staged of the 8. The others, where a device has no room or rows begin at no multiple of 16 bytes, are loaded when
// they are widened.
#pragma once

#include "formats.cuh"
#include "pages.cuh"

namespace v4npu::cuda {

// The row of place i of a token's list, of values of T or packed; null payload where there is none.
template <bool Packed, class T = bf16>
V4NPU_INLINE PageRow row_of_place(const Attention& p, QueryPlace at, int64_t t, int64_t i) {
  const RowFormat format = Packed ? fp8_kv_row(p.head_dim, p.rope_dim) : plain_row(p.head_dim, sizeof(T));
  if (i < p.window) {
    const int64_t first = at.position - p.window + 1 > 0 ? at.position - p.window + 1 : 0;
    // A position behind the table, which nobody can refuse without waiting, has none.
    if (first + i > at.position || first + i >= p.max_window_blocks * p.window_block) return {nullptr, nullptr};
    return page_row(p.window_kv, p.window_table + at.sequence * p.max_window_blocks, p.window_block, p.window_stride,
                    format, first + i);
  }
  int64_t entry = i - p.window;
  if (p.topk_indices != nullptr) {
    entry = entry < p.topk ? p.topk_indices[t * p.topk + entry] : -1;
  } else if (entry >= (at.position + 1) / p.ratio) {
    entry = -1;
  }
  // A pick behind the table, likewise, is none.
  if (entry < 0 || entry >= p.max_blocks * p.block_size) return {nullptr, nullptr};
  return page_row(p.compressed_kv, p.block_table + at.sequence * p.max_blocks, p.block_size, p.block_stride, format,
                  entry);
}

// Values [k0, k0 + 16) of a row; zeros behind its end and where there is none. `aligned`: it begins at a multiple of 16
// bytes.
template <bool Packed>
V4NPU_INLINE Run widen_row(const Attention& p, const PageRow& row, int64_t k0, bool aligned) {
  Run out[1] = {};
  if (row.payload == nullptr || k0 >= p.head_dim) return out[0];
  if constexpr (Packed) {
    const int64_t keep = p.head_dim - p.rope_dim;
    const uint8_t* at = row.payload + (k0 < keep ? k0 : keep + 2 * (k0 - keep));
    if (k0 >= keep) {
      load_run<Format::kBfloat16>(at, nullptr, 0, p.head_dim - k0, aligned, out);
    } else {
      load_run<Format::kFloat8>(at, nullptr, 0, kRun, aligned, out);
      const uint32_t factor = scale_pair(row.scales[k0 / 64]);
      V4NPU_UNROLL
      for (int i = 0; i < kRun / 2; ++i) out[0].pair[i] = multiply_bf16(out[0].pair[i], factor);
    }
  } else {
    load_run<Format::kBfloat16>(row.payload, nullptr, k0, p.head_dim, aligned, out);
  }
  return out[0];
}

template <bool Packed>
class ListRows {
 public:
  V4NPU_INLINE ListRows(const Attention& attention, const AttentionSpace& space, QueryPlace query, int64_t token,
                        int64_t end)
      : p(attention), at(query), t(token), places(end) {
    const int64_t bytes = staged_row_bytes(Packed, p.head_dim, p.rope_dim);
    rows = reinterpret_cast<PageRow*>(dynamic_shared() + space.rows) + warp_id() * kWarp;
    raw = dynamic_shared() + space.size + warp_id() * p.staged * bytes;
    row_bytes = static_cast<int>(bytes);
    payload = static_cast<int>(Packed ? p.head_dim + p.rope_dim : 2 * p.head_dim);
  }

  // Begins to copy the rows of the block of places from `begin` on, which follows the one before. No lane reads the
  // rows of that one any more.
  V4NPU_INLINE void copy(int64_t begin) {
    block = (block + 1) % kLookups;
    if (block == 0) look_up(begin);
    for (int r = 0; r < p.staged; ++r) {
      const uint8_t* from = rows[block * kWarpPlaces + r].payload;
      for (int i = lane_id() * 16; i < payload; i += kWarp * 16)
        copy_async<16>(raw + r * row_bytes + i, from + i, from != nullptr);
    }
    if (Packed && lane_id() < p.staged && p.head_dim > p.rope_dim) {  // 8 scales at most
      const uint8_t* from = rows[block * kWarpPlaces + lane_id()].scales;
      copy_async<8>(raw + lane_id() * row_bytes + payload, from, from != nullptr);
    }
    commit_copies();
  }

  // The rows that were copied last, widened, to the tile; they have come, and every lane knows. Bit r: there is row r.
  V4NPU_INLINE uint32_t widen(bf16* tile, int64_t stride) const {
    const int runs = static_cast<int>(padded_dim(p.head_dim) / kRun);
    for (int task = lane_id(); task < kWarpPlaces * runs; task += kWarp) {
      const int r = task / runs, k0 = task % runs * kRun;
      Run v;
      if (r < p.staged) {
        const uint8_t* row = raw + r * row_bytes;
        v = widen_row<Packed>(p, {row, row + payload}, k0, true);
      } else {
        const PageRow& row = rows[block * kWarpPlaces + r];
        v = widen_row<Packed>(p, row, k0, reinterpret_cast<uintptr_t>(row.payload) % 16 == 0);
      }
      bf16* to = tile + (warp_id() * kWarpPlaces + r) * stride + k0;
      store_as(to, u32x4{v.pair[0], v.pair[1], v.pair[2], v.pair[3]});
      store_as(to + 8, u32x4{v.pair[4], v.pair[5], v.pair[6], v.pair[7]});
    }
    return present >> (block * kWarpPlaces);
  }

 private:
  static constexpr int kLookups = kWarp / kWarpPlaces;  // blocks of places

  V4NPU_INLINE void look_up(int64_t begin) {
    const int lane = lane_id();
    const int64_t i = begin + lane / kWarpPlaces * kPlaces + warp_id() * kWarpPlaces + lane % kWarpPlaces;
    PageRow row{nullptr, nullptr};
    if (i < places) row = row_of_place<Packed>(p, at, t, i);
    rows[lane].payload = row.payload;
    rows[lane].scales = row.scales;
    present = ballot(row.payload != nullptr);
    sync_warp();
  }

  const Attention& p;
  const QueryPlace at;
  const int64_t t, places;
  PageRow* rows;       // of the four blocks
  unsigned char* raw;  // p.staged rows as they lie, each with its scales
  int row_bytes, payload, block = kLookups - 1;
  uint32_t present = 0;  // a bit for each of `rows`
};

}  // namespace v4npu::cuda
