// Products with a quantised matrix: the vector cores of a block expand b a panel at a time into slots of global memory,
// the cube core multiplies what lies there. Each of the two takes half the rows of every panel.
//
// Flags: 0 a slot is full, 1 a slot is free. Workspace: slot_bytes() for every block.
#pragma once

#include "cube.h"
#include "dequantise.h"

namespace v4npu {

constexpr uint16_t kSlotFull = 0;    // vector to cube
constexpr uint16_t kSlotVacant = 1;  // cube to vector
constexpr int32_t kSlots = 2;

// What both sides agree on.
template <typename T>
struct Slots {
  using Products = CubeProducts<T, T>;
  static constexpr int32_t kPanel = Products::kPanel;
  static constexpr int32_t kSize = Products::kMaxTileColumns * kPanel;

  AscendC::GlobalTensor<T> data;  // [kSlots, kMaxTileColumns, kPanel]
  int64_t block, steps, step = 0;

  template <typename Shape>
  __aicore__ inline Slots(GM_ADDR workspace, const Shape& shape, int64_t of_block) : block(of_block) {
    data.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(workspace) + block * kSlots * kSize, kSlots * kSize);
    const int64_t blocks = AscendC::GetBlockNum(), tiles = shape.tiles();
    steps = (block < tiles ? (tiles - block - 1) / blocks + 1 : 0) * CubeShape::parts(shape.k, kPanel);
  }
  __aicore__ inline AscendC::GlobalTensor<T> current() const { return data[step % kSlots * kSize]; }
};

// b for CubeProducts::run.
template <typename T>
class SlotMatrix {
 public:
  template <typename Shape>
  __aicore__ inline SlotMatrix(GM_ADDR workspace, const Shape& shape)
      : slots_(workspace, shape, AscendC::GetBlockIdx()) {}
  __aicore__ inline AscendC::GlobalTensor<T> panel(const CubeTile&, int64_t) {
    AscendC::CrossCoreWaitFlag<2, PIPE_MTE2>(kSlotFull);
    return slots_.current();
  }
  __aicore__ inline int64_t stride() const { return Slots<T>::kPanel; }
  __aicore__ inline void release() {
    if (slots_.step + kSlots < slots_.steps) AscendC::CrossCoreSetFlag<2, PIPE_MTE2>(kSlotVacant);
    ++slots_.step;
  }

 private:
  Slots<T> slots_;
};

// What the vector cores do meanwhile.
template <typename Format, typename T, typename Shape>
__aicore__ inline void fill_slots(GM_ADDR codes, GM_ADDR scales, GM_ADDR workspace, Shape shape) {
  Dequantiser<Format, T> matrix(codes, scales, shape.b_rows(), shape.k);
  Slots<T> slots(workspace, shape, AscendC::GetBlockIdx() / AscendC::GetSubBlockNum());
  constexpr int32_t kPanel = Slots<T>::kPanel;
  constexpr int32_t kDepth = kPanel < Dequantiser<Format, T>::kDepth ? kPanel : Dequantiser<Format, T>::kDepth;
  for (int64_t i = slots.block; i < shape.tiles(); i += AscendC::GetBlockNum()) {
    const CubeTile tile = shape.tile(i);
    matrix.select(tile.matrix, shape.rows_apart);
    const int32_t half = (tile.columns + 1) / 2, first = AscendC::GetSubBlockIdx() == 0 ? 0 : half;
    const int32_t rows = first == 0 ? half : tile.columns - half;
    for (int64_t panel = 0; panel < shape.k; panel += kPanel) {
      if (slots.step >= kSlots) AscendC::CrossCoreWaitFlag<2, PIPE_MTE3>(kSlotVacant);
      const int64_t end = panel + kPanel < shape.k ? panel + kPanel : shape.k;
      for (int64_t start = panel; start < end; start += kDepth) {
        const auto depth = static_cast<int32_t>(end - start < kDepth ? end - start : kDepth);
        matrix.run(tile.b_row + first, rows, start, depth, slots.current()[first * kPanel + start - panel], kPanel);
      }
      AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(kSlotFull);
      ++slots.step;
    }
  }
}

template <typename Format, typename T, typename Out, typename Shape = CubeShape>
__aicore__ inline void dequantised_products(GM_ADDR x, GM_ADDR codes, GM_ADDR scales, GM_ADDR workspace, GM_ADDR out,
                                            const Shape& shape) {
  if ASCEND_IS_AIC {
    SlotMatrix<T> matrix(workspace, shape);
    CubeProducts<T, Out, PlainOperands<T>, Shape>(x, out, shape).run(matrix);
  }
  if ASCEND_IS_AIV {
    fill_slots<Format, T>(codes, scales, workspace, shape);
  }
}

// The first `width` values of every row of a quantised matrix, to the same places of [num_rows, k]. Blocks take parts
// of 32 rows and 128 values.
template <typename Format, typename T>
__aicore__ inline void dequantise_all(GM_ADDR codes, GM_ADDR scales, GM_ADDR out, int64_t num_rows, int64_t k,
                                      int64_t width) {
  using Values = Dequantiser<Format, T>;
  const int64_t across = CubeShape::parts(width, Values::kDepth);
  const BlockRows parts(CubeShape::parts(num_rows, Values::kRows) * across);
  if (parts.first == parts.last) return;
  Values matrix(codes, scales, num_rows, k);
  AscendC::GlobalTensor<T> values;
  values.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(out), num_rows * k);
  for (int64_t part = parts.first; part < parts.last; ++part) {
    const int64_t row = part / across * Values::kRows, start = part % across * Values::kDepth;
    const int64_t rows = num_rows - row < Values::kRows ? num_rows - row : Values::kRows;
    const int64_t depth = width - start < Values::kDepth ? width - start : Values::kDepth;
    matrix.run(row, static_cast<int32_t>(rows), start, static_cast<int32_t>(depth), values[row * k + start], k);
  }
}

}  // namespace v4npu

// What kernels of one weight take and hand on.
#define DEQUANTISED_PRODUCT_PARAMETERS                                                                 \
  GM_ADDR x, GM_ADDR weight, GM_ADDR weight_scale, GM_ADDR workspace, GM_ADDR out, int64_t num_tokens, \
      int64_t num_rows, int64_t k, int64_t groups, int32_t tile_rows, int32_t tile_columns
#define DEQUANTISED_PRODUCT_ARGUMENTS \
  x, weight, weight_scale, workspace, out, { num_tokens, num_rows, k, groups, tile_rows, tile_columns }
