// indexer.h on AMX tiles: the heads of queries are the left operand, as they lie, and turned keys the right one.
#pragma once

#include "paged/rows.h"

namespace v4npu::cpu::V4NPU_ISA {

// 32 columns by 32 keys to out [32, 32]; `row` floats from one column to the next, as many steps of pairs, and 16 times
// as many floats from one group of 16 keys to the next.
V4NPU_INLINE void tile_dots(const float* q, int64_t row, const float* keys, float* out) {
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  for (int64_t s = 0; s < row; s += kLanes) {
    tile_load<6>(keys + s * kLanes, 64);
    tile_load<7>(keys + (row + s) * kLanes, 64);
    tile_load<4>(q + s, row * 4);
    tile_load<5>(q + kLanes * row + s, row * 4);
    tile_dot<0, 4, 6>();
    tile_dot<1, 4, 7>();
    tile_dot<2, 5, 6>();
    tile_dot<3, 5, 7>();
  }
  tile_store<0>(out, 128);
  tile_store<1>(out + kLanes, 128);
  tile_store<2>(out + 32 * kLanes, 128);
  tile_store<3>(out + 33 * kLanes, 128);
}

// Steps 1 to 4 of indexer_scores.h for 32 keys and whole queries, whose heads are a multiple of 16: scores of 32 keys
// for each. The dots of 32 columns, 4 KiB, are used while they are in the first cache.
template <class Round>
V4NPU_INLINE void tile_scores(const float* q, int64_t row, const float* keys, const float* weights, int64_t heads,
                              int64_t columns, float* dots, float* scores, const Round& round) {
  f32x16 sum[2] = {zero(), zero()};
  int64_t left = heads;  // of the query
  for (int64_t first = 0; first < columns; first += 32) {
    tile_dots(q + first * row, row, keys, dots);
    for (int64_t c = 0; c < 32 && c < columns - first; c += kLanes) {
      f32x16 part[2] = {zero(), zero()};
      for (int64_t h = c; h < c + kLanes; ++h) {
        const f32x16 weight = set1(weights[first + h]);
        for (int v = 0; v < 2; ++v) {  // 2 relu, times weights; NaN passes   3 sum over heads
          const f32x16 dot = max(zero(), load(dots + (2 * h + v) * kLanes));
          part[v] = part[v] + round(round(dot) * weight);
        }
      }
      for (int v = 0; v < 2; ++v) sum[v] = sum[v] + part[v];
      left -= kLanes;
      if (left > 0) continue;
      for (int v = 0; v < 2; ++v, scores += kLanes) {
        store(scores, round(sum[v]));  // 4 widen
        sum[v] = zero();
      }
      left = heads;
    }
  }
}

}  // namespace v4npu::cpu::V4NPU_ISA
