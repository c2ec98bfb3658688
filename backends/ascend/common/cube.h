// Products of matrices on a cube core: out[g] = a[g] b[g]^T in tiles of the result, sums in fp32 and rounded once.
#pragma once

#include "rows.h"

namespace v4npu {

// A tile of the result: where it starts and how large it is, and where its part of b starts.
struct CubeTile {
  int64_t group, row, column, matrix, b_row;
  int32_t rows, columns;
};

// Of `groups` products; rows of a and of out lie interleaved, a group after the other within a row. b may be one of
// several matrices.
struct CubeShape {
  int64_t rows, columns, k;  // of a group; out has columns rounded up to kFractal
  int64_t groups;
  int32_t tile_rows, tile_columns;  // multiples of kFractal, at most kMaxTileRows and kMaxTileColumns
  int64_t matrices = 1, rows_apart = 0;

  static constexpr int32_t kFractal = 16;  // rows

  static __aicore__ inline int64_t parts(int64_t size, int64_t of) { return (size + of - 1) / of; }
  __aicore__ inline int64_t padded_columns() const { return parts(columns, kFractal) * kFractal; }
  __aicore__ inline int64_t b_rows() const { return groups * columns; }  // of a matrix
  __aicore__ inline int64_t tiles() const { return groups * parts(rows, tile_rows) * parts(columns, tile_columns); }

  // Neighbours share columns, so that blocks that run together read the same weights.
  __aicore__ inline CubeTile tile(int64_t number) const {
    const int64_t down = parts(rows, tile_rows), across = parts(columns, tile_columns);
    const int64_t group = number / (down * across), row = number % down * tile_rows;
    const int64_t column = number / down % across * tile_columns;
    return {group,
            row,
            column,
            0,
            group * columns + column,
            least(rows - row, tile_rows),
            least(columns - column, tile_columns)};
  }

 private:
  static __aicore__ inline int32_t least(int64_t a, int32_t b) { return a < b ? static_cast<int32_t>(a) : b; }
};

// b as it lies in global memory: [groups * columns, k], or several of these.
template <typename T>
class StoredMatrix {
 public:
  __aicore__ inline StoredMatrix(GM_ADDR data, const CubeShape& shape) : rows_apart_(shape.rows_apart), k_(shape.k) {
    data_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(data),
                          ((shape.matrices - 1) * rows_apart_ + shape.b_rows()) * k_);
  }
  __aicore__ inline AscendC::GlobalTensor<T> panel(const CubeTile& tile, int64_t start) {
    return data_[(tile.matrix * rows_apart_ + tile.b_row) * k_ + start];
  }
  __aicore__ inline int64_t stride() const { return k_; }
  __aicore__ inline void release() {}

 private:
  AscendC::GlobalTensor<T> data_;
  int64_t rows_apart_, k_;
};

// How operands of T, bf16 or fp32, get from L1 to L0 and are multiplied. Sizes in fractals; `at` is a value of k.
template <typename T>
class PlainOperands {
 public:
  __aicore__ inline void init(AscendC::TPipe&, const CubeShape&) {}
  __aicore__ inline void load(const CubeTile&, int64_t, uint16_t) {}
  __aicore__ inline void take() {}
  __aicore__ inline void free() {}

  __aicore__ inline void split_a(const AscendC::LocalTensor<T>& a2, const AscendC::LocalTensor<T>& a1, uint16_t at,
                                 uint16_t rows, uint16_t depth) {
    const AscendC::LocalTensor<T> part = a1[at * rows * kFractal];
#if __NPU_ARCH__ == 2201  // Zz: a row of fractals after the other
    for (uint16_t i = 0; i < rows; ++i) {
      AscendC::LoadData(a2[i * depth * kFractal * kBlock], part[i * kFractal * kBlock],
                        AscendC::LoadData2DParams(0, depth, rows, 0, 0, false, 0));
    }
#else  // Nz, as in L1
    AscendC::LoadData(a2, part, AscendC::LoadData2DParams(0, rows * depth, 1, 0, 0, false, 0));
#endif
  }

  // Nz of the n x k operand in L1 is Zn of the k x n operand in L0B.
  __aicore__ inline void split_b(const AscendC::LocalTensor<T>& b2, const AscendC::LocalTensor<T>& b1, uint16_t at,
                                 uint16_t columns, uint16_t depth) {
    AscendC::LoadData(b2, b1[at * columns * kFractal],
                      AscendC::LoadData2DParams(0, columns * depth, 1, 0, 0, false, 0));
  }

  __aicore__ inline void multiply(const AscendC::LocalTensor<float>& sum, const AscendC::LocalTensor<T>& a2,
                                  const AscendC::LocalTensor<T>& b2, const AscendC::MmadParams& params) {
    AscendC::Mmad(sum, a2, b2, params);
  }

 private:
  static constexpr int32_t kFractal = CubeShape::kFractal;
  static constexpr int32_t kBlock = 32 / sizeof(T);  // values of a row in a fractal
};

// A sum goes through k upwards, kPiece at a time, whatever the tile: it depends on k alone.
//
// Bytes, dav_2201 / dav_3510:  L1   a 2 x 65536, b 2 x 131072 / 4 x 65536        total 393216 / 262144
//                              L0A  2 x 16384 / 2 x 32768   L0B  2 x 32768       total 98304 / 131072
//                              L0C  131072 / 262144
template <typename T, typename Out, typename Operands = PlainOperands<T>, typename Shape = CubeShape>
class CubeProducts {
 public:
  static constexpr int32_t kMaxTileRows = __NPU_ARCH__ == 2201 ? 128 : 256;  // all of L0C in fp32
  static constexpr int32_t kMaxTileColumns = 256;
  static constexpr int32_t kPiece = 128 / sizeof(T);                          // of k, in L0: half of L0B at most
  static constexpr int32_t kPanel = (__NPU_ARCH__ == 2201 ? 4 : 2) * kPiece;  // of k, in L1

  __aicore__ inline CubeProducts(GM_ADDR a, GM_ADDR out, const Shape& shape, const Operands& operands = Operands())
      : operands_(operands), shape_(shape) {
    a_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(a), shape.rows * shape.groups * shape.k);
    out_.SetGlobalBuffer(reinterpret_cast<__gm__ Out*>(out), shape.rows * shape.groups * shape.padded_columns());
    pipe_.InitBuffer(a1_queue_, 2, kMaxTileRows * kPanel * sizeof(T));
    pipe_.InitBuffer(b1_queue_, 2, kMaxTileColumns * kPanel * sizeof(T));
    pipe_.InitBuffer(a2_queue_, 2, kMaxTileRows * kPiece * sizeof(T));
    pipe_.InitBuffer(b2_queue_, 2, kMaxTileColumns * kPiece * sizeof(T));
    pipe_.InitBuffer(sum_queue_, 1, kMaxTileRows * kMaxTileColumns * sizeof(float));
    operands_.init(pipe_, shape);
  }

  // The tiles of this block; b as StoredMatrix.
  template <typename Matrix>
  __aicore__ inline void run(Matrix& b) {
    for (int64_t i = AscendC::GetBlockIdx(); i < shape_.tiles(); i += AscendC::GetBlockNum()) {
      multiply(shape_.tile(i), b);
    }
  }

 private:
  static constexpr int32_t kFractal = CubeShape::kFractal;
  static constexpr int64_t kMaxStride = 65535;       // of the copy to Nz
  static constexpr int32_t kBlock = 32 / sizeof(T);  // values of a row in a fractal

  static __aicore__ inline uint16_t parts(int64_t size, int64_t of) {
    return static_cast<uint16_t>(CubeShape::parts(size, of));
  }
  static __aicore__ inline uint16_t least(int64_t a, int64_t b) { return static_cast<uint16_t>(a < b ? a : b); }

  template <typename Matrix>
  __aicore__ inline void multiply(const CubeTile& tile, Matrix& b) {
    const int64_t a_stride = shape_.groups * shape_.k, out_stride = shape_.groups * shape_.padded_columns();
    const uint16_t columns = parts(tile.columns, kFractal) * kFractal;
    const uint16_t rows = tile.rows == 1 ? 2 : static_cast<uint16_t>(tile.rows);  // one row reads another layout (GEMV)
    AscendC::LocalTensor<float> sum = sum_queue_.template AllocTensor<float>();
    for (int64_t start = 0; start < shape_.k; start += kPanel) {
      const uint16_t depth = least(shape_.k - start, kPanel);
      load(a1_queue_, a_[tile.row * a_stride + tile.group * shape_.k + start], a_stride, tile.rows, rows, depth);
      load(b1_queue_, b.panel(tile, start), b.stride(), tile.columns, columns, depth);
      b.release();
      operands_.load(tile, start, depth);
      AscendC::LocalTensor<T> a1 = a1_queue_.template DeQue<T>();
      AscendC::LocalTensor<T> b1 = b1_queue_.template DeQue<T>();
      operands_.take();
      for (uint16_t at = 0; at < depth; at += kPiece) {
        const uint16_t piece = least(depth - at, kPiece);
        AscendC::LocalTensor<T> a2 = a2_queue_.template AllocTensor<T>();
        operands_.split_a(a2, a1, at, parts(rows, kFractal), parts(piece, kBlock));
        a2_queue_.EnQue(a2);
        AscendC::LocalTensor<T> b2 = b2_queue_.template AllocTensor<T>();
        operands_.split_b(b2, b1, at, parts(columns, kFractal), parts(piece, kBlock));
        b2_queue_.EnQue(b2);
        a2 = a2_queue_.template DeQue<T>();
        b2 = b2_queue_.template DeQue<T>();
        AscendC::PipeBarrier<PIPE_M>();
        operands_.multiply(sum, a2, b2, AscendC::MmadParams(rows, columns, piece, 0, false, start + at == 0));
        a2_queue_.FreeTensor(a2);
        b2_queue_.FreeTensor(b2);
      }
      operands_.free();
      a1_queue_.FreeTensor(a1);
      b1_queue_.FreeTensor(b1);
    }
    sum_queue_.EnQue(sum);
    sum = sum_queue_.template DeQue<float>();
    AscendC::FixpipeParamsV220 params(columns, static_cast<uint16_t>(tile.rows), parts(rows, kFractal) * kFractal,
                                      static_cast<uint32_t>(out_stride), false);
    if constexpr (AscendC::IsSameType<Out, bfloat16_t>::value) params.quantPre = QuantMode_t::F322BF16;
    AscendC::Fixpipe(out_[tile.row * out_stride + tile.group * shape_.padded_columns() + tile.column], sum, params);
    sum_queue_.FreeTensor(sum);
  }

  // A part of a row-major matrix into L1, as Nz; rows up to `padded` repeat the first.
  template <typename Queue>
  __aicore__ inline void load(Queue& queue, const AscendC::GlobalTensor<T>& source, int64_t stride, int32_t rows,
                              uint16_t padded, uint16_t depth) {
    const AscendC::LocalTensor<T> part = queue.template AllocTensor<T>();
    const uint16_t height = parts(padded, kFractal) * kFractal, num_rows = static_cast<uint16_t>(rows);
    if (sizeof(T) == sizeof(float) || stride <= kMaxStride) {
      copy(part, source, num_rows, padded, depth, stride, height);
    } else {  // twice as far in pairs, which must be whole
      AscendC::GlobalTensor<float> pairs;
      pairs.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(const_cast<__gm__ T*>(source.GetPhyAddr())));
      copy(part.template ReinterpretCast<float>(), pairs, num_rows, padded, depth / 2, stride / 2, height);
    }
    queue.EnQue(part);
  }

  template <typename U>
  static __aicore__ inline void copy(const AscendC::LocalTensor<U>& to, const AscendC::GlobalTensor<U>& source,
                                     uint16_t rows, uint16_t padded, uint16_t depth, int64_t stride, uint16_t height) {
    constexpr int32_t kValues = 32 / sizeof(U);
    const auto apart = static_cast<uint16_t>(stride);
    AscendC::DataCopy(to, source, AscendC::Nd2NzParams(1, rows, depth, 0, apart, height, 1, 0));
    for (uint16_t row = rows; row < padded; ++row) {
      AscendC::DataCopy(to[row * kValues], source, AscendC::Nd2NzParams(1, 1, depth, 0, apart, height, 1, 0));
    }
  }

  AscendC::TPipe pipe_;
  AscendC::TQue<AscendC::TPosition::A1, 1> a1_queue_;
  AscendC::TQue<AscendC::TPosition::B1, 1> b1_queue_;
  AscendC::TQue<AscendC::TPosition::A2, 1> a2_queue_;
  AscendC::TQue<AscendC::TPosition::B2, 1> b2_queue_;
  AscendC::TQue<AscendC::TPosition::CO1, 1> sum_queue_;
  Operands operands_;
  AscendC::GlobalTensor<T> a_;      // [rows, groups, k]
  AscendC::GlobalTensor<Out> out_;  // [rows, groups, padded columns]
  Shape shape_;
};

template <typename T, typename Out, typename Shape = CubeShape>
__aicore__ inline void products(GM_ADDR a, GM_ADDR b, GM_ADDR out, const Shape& shape) {
  StoredMatrix<T> matrix(b, shape);
  CubeProducts<T, Out, PlainOperands<T>, Shape>(a, out, shape).run(matrix);
}

}  // namespace v4npu
