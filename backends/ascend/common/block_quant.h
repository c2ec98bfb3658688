// The quantisers to e4m3 and e2m1 with one ue8m0 scale per block, on vector cores, byte-exact with the contract.
//
// dav_2201 has no instruction for these formats and dav_3510's have modes of their own, so both do the rounding on fp32
// bits with integer instructions. With m the bits of a magnitude, already clamped to the largest value:
//   normal      a = max(m, smallest normal); add half a step less one, plus the last kept bit (ties to even); shift
//   subnormal   b = min(m, smallest normal); adding 2^k, whose last place is one subnormal step, rounds b to even
// The part that is out of its range yields the code of the smallest normal, so the sum less that code is the answer,
// without a select.
//
// A tile is a part of one row: whole blocks, at most 2048 values. block_size must be a multiple of 8 (32 bytes of fp32)
// and at most 2048. Subnormal inputs of fp4 may be flushed to zero by a chip.
// UB in bytes, T = fp32 / 16 bit:  x 2 x 8192 / 4096   codes 2 x 2048   scales 2 x 256
//                                  fp32 and int32 values 6 x 8192   tables 2 x 8192   per block 5 x 8192
//                                  int16 and half values 2 x 4096   total 135680 / 127488
#pragma once

#include "rows.h"

namespace v4npu {

struct E4m3 {
  static constexpr int32_t kLargest = 0x43e00000;         // 448
  static constexpr int32_t kSmallestNormal = 0x3c800000;  // 2^-6, code 8
  static constexpr uint32_t kDroppedBits = 20;            // of fp32's 23 mantissa bits
  static constexpr float kStep = 0x1p14f;                 // last place 2^-9
  static constexpr int32_t kStepBits = 0x46800000;
  static constexpr uint32_t kSignBit = 7;
  static constexpr float kAmaxFloor = 1e-4f;
  static constexpr bool kNanScale = false;
  static constexpr float kInverseLargest = 1.0f / 448.0f;
  static constexpr bool kHasNan = true;  // the code after the largest value
  static constexpr int32_t kPerByte = 1;
};

struct E2m1 {
  static constexpr int32_t kLargest = 0x40c00000;         // 6
  static constexpr int32_t kSmallestNormal = 0x3f800000;  // 1, code 2
  static constexpr uint32_t kDroppedBits = 22;
  static constexpr float kStep = 0x1p22f;  // last place 1/2
  static constexpr int32_t kStepBits = 0x4a800000;
  static constexpr uint32_t kSignBit = 3;
  static constexpr float kAmaxFloor = 0x1.8p-124f;  // 6 * 2^-126
  static constexpr bool kNanScale = true;           // of a block with a NaN, which no code stands for
  static constexpr float kInverseLargest = 1.0f / 6.0f;
  static constexpr bool kHasNan = false;
  static constexpr int32_t kPerByte = 2;
};

template <typename Format, typename T>
class BlockQuantKernel {
  using F32 = AscendC::LocalTensor<float>;
  using I32 = AscendC::LocalTensor<int32_t>;
  using U32 = AscendC::LocalTensor<uint32_t>;

 public:
  __aicore__ inline BlockQuantKernel(GM_ADDR x, GM_ADDR q, GM_ADDR scale, int64_t num_rows, int64_t n,
                                     int64_t block_size)
      : num_rows_(num_rows), n_(n), block_size_(static_cast<int32_t>(block_size)) {
    row_blocks_ = (n + block_size - 1) / block_size;
    tile_ = kTile / block_size_ * block_size_;
    x_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(x), num_rows * n);
    q_.SetGlobalBuffer(q, num_rows * n / Format::kPerByte);
    scale_.SetGlobalBuffer(scale, num_rows * row_blocks_);
    pipe_.InitBuffer(x_queue_, 2, kTile * sizeof(T));
    pipe_.InitBuffer(q_queue_, 2, kTile);
    pipe_.InitBuffer(scale_queue_, 2, kTile / kSlot);
    pipe_.InitBuffer(value_buffer_, 13 * kTile * sizeof(float));
    pipe_.InitBuffer(short_buffer_, kTile * sizeof(int16_t));
    pipe_.InitBuffer(half_buffer_, kTile * sizeof(half));
    const F32 pool = value_buffer_.Get<float>();
    value_ = pool;
    magnitude_ = pool[kTile];
    normal_ = int32(pool[2 * kTile]);
    small_ = pool[3 * kTile];
    sign_ = uint32(pool[4 * kTile]);
    spread_ = pool[5 * kTile];
    block_offset_ = uint32(pool[6 * kTile]);
    pair_offset_ = uint32(pool[7 * kTile]);
    slots_ = pool[8 * kTile];
    amax_ = pool[9 * kTile];
    slot_offset_ = uint32(pool[10 * kTile]);
    exponent_ = int32(pool[11 * kTile]);
    inverse_ = pool[12 * kTile];
    short_ = short_buffer_.Get<int16_t>();
    half_ = half_buffer_.Get<half>();
    make_tables();
  }

  __aicore__ inline void run() {
    const BlockRows rows(num_rows_);
    for (int64_t row = rows.first; row < rows.last; ++row) {
      for (int64_t start = 0; start < n_; start += tile_) {
        const int32_t count = static_cast<int32_t>(n_ - start < tile_ ? n_ - start : tile_);
        const int32_t blocks = (count + block_size_ - 1) / block_size_;
        load(row * n_ + start, count);
        block_amax(count, blocks);
        scales(row * row_blocks_ + start / block_size_, blocks);
        encode(count);
        store((row * n_ + start) / Format::kPerByte, count);
      }
    }
  }

 private:
  static constexpr int32_t kTile = 2048;
  static constexpr int32_t kSlot = 8;               // floats in a block of 32 bytes
  static constexpr int32_t kInfinity = 0x7f800000;  // bits
  static constexpr int32_t kExponent = 1 << 23;
  static constexpr int32_t kMantissaMask = 0x7fffff;
  static constexpr int32_t kLargestScale = 254;  // 255 is NaN

  static __aicore__ inline I32 int32(const F32& t) { return t.template ReinterpretCast<int32_t>(); }
  static __aicore__ inline U32 uint32(const F32& t) { return t.template ReinterpretCast<uint32_t>(); }
  static __aicore__ inline U32 uint32(const I32& t) { return t.template ReinterpretCast<uint32_t>(); }

  // Byte offsets: of the scale of each value, of the even and of the odd value of each pair, of the slot of each
  // block's amax.
  __aicore__ inline void make_tables() {
    const I32 block = block_offset_.template ReinterpretCast<int32_t>();
    const I32 pair = pair_offset_.template ReinterpretCast<int32_t>();
    const I32 slot = slot_offset_.template ReinterpretCast<int32_t>();
    for (int32_t b = 0; b < tile_ / block_size_; ++b) {
      AscendC::Duplicate(block[b * block_size_], b * static_cast<int32_t>(sizeof(float)), block_size_);
    }
    AscendC::CreateVecIndex(pair, 0, kTile / 2);
    AscendC::CreateVecIndex(slot, 0, kTile / kSlot);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(pair, pair, 8, kTile / 2);
    AscendC::Muls(slot, slot, 32, kTile / kSlot);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(pair[kTile / 2], pair, 4, kTile / 2);
  }

  __aicore__ inline void load(int64_t start, int32_t count) {
    AscendC::LocalTensor<T> in = x_queue_.template AllocTensor<T>();
    AscendC::DataCopyPad(in, x_[start], one_run<T>(count), AscendC::DataCopyPadExtParams<T>());
    x_queue_.EnQue(in);
    in = x_queue_.template DeQue<T>();
    widen(value_, in, count);
    AscendC::PipeBarrier<PIPE_V>();
    x_queue_.FreeTensor(in);
  }

  // Step 1, as bits. What the chip's maximum makes of a NaN is not documented, so it counts as infinity, or, where the
  // scale tells it apart, all magnitudes are lowered by 2^23, an exponent: then a NaN, cut to the one after infinity,
  // is a number, and what becomes zero is far below the floor of step 2.
  __aicore__ inline void block_amax(int32_t count, int32_t blocks) {
    AscendC::ShiftLeft(uint32(magnitude_), uint32(value_), 1u, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftRight(uint32(magnitude_), uint32(magnitude_), 1u, count);
    AscendC::PipeBarrier<PIPE_V>();
    if constexpr (Format::kNanScale) {
      AscendC::Adds(int32(magnitude_), int32(magnitude_), -kExponent, count);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Maxs(int32(magnitude_), int32(magnitude_), 0, count);
      AscendC::PipeBarrier<PIPE_V>();
    }
    AscendC::Mins(int32(magnitude_), int32(magnitude_), Format::kNanScale ? kInfinity + 1 - kExponent : kInfinity,
                  count);
    AscendC::PipeBarrier<PIPE_V>();
    for (int32_t b = 0; b < blocks; ++b) {
      const int32_t at = b * block_size_;
      const int32_t size = count - at < block_size_ ? count - at : block_size_;
      AscendC::ReduceMax(slots_[b * kSlot], magnitude_[at], small_[at], size);
    }
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Gather(amax_, slots_, slot_offset_, 0u, blocks);
    AscendC::PipeBarrier<PIPE_V>();
  }

  // Step 2. Adding the largest mantissa carries into the exponent unless the mantissa is zero: a ceiling.
  __aicore__ inline void scales(int64_t start, int32_t blocks) {
    if constexpr (Format::kNanScale) take_out_nan(blocks);
    AscendC::Maxs(amax_, amax_, Format::kAmaxFloor, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(amax_, amax_, Format::kInverseLargest, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(int32(amax_), int32(amax_), kMantissaMask, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftRight(uint32(exponent_), uint32(amax_), 23u, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mins(exponent_, exponent_, kLargestScale, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    // 1 / 2^(byte - 127), whose biased exponent is 254 - byte. Beside an infinity (byte 254) a normal number has to do:
    // the infinity still gives the largest code, and only neighbours above 2^115 feel the difference.
    AscendC::Muls(int32(inverse_), exponent_, -1, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(int32(inverse_), int32(inverse_), kLargestScale, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Maxs(int32(inverse_), int32(inverse_), 1, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftLeft(uint32(inverse_), uint32(inverse_), 23u, blocks);
    if constexpr (Format::kNanScale) {
      AscendC::Add(exponent_, exponent_, int32(slots_), blocks);
      AscendC::PipeBarrier<PIPE_V>();
    }
    AscendC::LocalTensor<uint8_t> bytes = scale_queue_.template AllocTensor<uint8_t>();
    to_bytes(bytes, exponent_, blocks);
    scale_queue_.EnQue(bytes);
    bytes = scale_queue_.template DeQue<uint8_t>();
    AscendC::DataCopyPad(scale_[start], bytes, one_run<uint8_t>(blocks));
    scale_queue_.FreeTensor(bytes);
  }

  // 1 in slots_ for a block with a NaN, whose amax becomes infinity.
  __aicore__ inline void take_out_nan(int32_t blocks) {
    AscendC::Adds(int32(amax_), int32(amax_), kExponent, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(int32(slots_), int32(amax_), -kInfinity, blocks);
    AscendC::Mins(int32(amax_), int32(amax_), kInfinity, blocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Maxs(int32(slots_), int32(slots_), 0, blocks);
  }

  // Steps 3 and 4, into normal_.
  __aicore__ inline void encode(int32_t count) {
    const I32 magnitude = int32(magnitude_);
    const I32 bits = int32(small_);
    AscendC::Gather(spread_, inverse_, block_offset_, 0u, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mul(value_, value_, spread_, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftRight(sign_, uint32(value_), 31u, count);
    AscendC::ShiftLeft(uint32(magnitude), uint32(value_), 1u, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftLeft(sign_, sign_, Format::kSignBit, count);
    AscendC::ShiftRight(uint32(magnitude), uint32(magnitude), 1u, count);
    AscendC::PipeBarrier<PIPE_V>();
    if constexpr (Format::kHasNan) mark_nan(magnitude, count);
    AscendC::Mins(magnitude, magnitude, Format::kLargest, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Maxs(normal_, magnitude, Format::kSmallestNormal, count);
    AscendC::Mins(bits, magnitude, Format::kSmallestNormal, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftLeft(uint32(magnitude), uint32(normal_), 31u - Format::kDroppedBits, count);
    AscendC::Adds(small_, small_, Format::kStep, count);
    AscendC::Adds(normal_, normal_, (1 << (Format::kDroppedBits - 1)) - 1, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftRight(uint32(magnitude), uint32(magnitude), 31u, count);  // the last bit kept
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(normal_, normal_, magnitude, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftRight(uint32(normal_), uint32(normal_), Format::kDroppedBits, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(normal_, normal_, bits, count);
    AscendC::PipeBarrier<PIPE_V>();
    // The two codes, less the one counted twice: the biases of both bit patterns come off together.
    AscendC::Adds(normal_, normal_, -(Format::kSmallestNormal >> Format::kDroppedBits) - Format::kStepBits, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(normal_, normal_, sign_.template ReinterpretCast<int32_t>(), count);
    AscendC::PipeBarrier<PIPE_V>();
  }

  // Adds 1 to the sign's code where the magnitude is a NaN: the code after the largest.
  __aicore__ inline void mark_nan(const I32& magnitude, int32_t count) {
    const I32 sign = sign_.template ReinterpretCast<int32_t>();
    AscendC::Adds(normal_, magnitude, -kInfinity, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Maxs(normal_, normal_, 0, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mins(normal_, normal_, 1, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(sign, sign, normal_, count);
  }

  // Step 5 for two to a byte: the even code in the low nibble.
  __aicore__ inline void store(int64_t start, int32_t count) {
    const int32_t bytes = count / Format::kPerByte;
    if constexpr (Format::kPerByte == 2) {
      AscendC::Gather(int32(value_), normal_, pair_offset_, 0u, bytes);
      AscendC::Gather(int32(magnitude_), normal_, pair_offset_[kTile / 2], 0u, bytes);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Muls(int32(magnitude_), int32(magnitude_), 16, bytes);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Add(normal_, int32(value_), int32(magnitude_), bytes);
      AscendC::PipeBarrier<PIPE_V>();
    }
    AscendC::LocalTensor<uint8_t> out = q_queue_.template AllocTensor<uint8_t>();
    to_bytes(out, normal_, bytes);
    q_queue_.EnQue(out);
    out = q_queue_.template DeQue<uint8_t>();
    AscendC::DataCopyPad(q_[start], out, one_run<uint8_t>(bytes));
    q_queue_.FreeTensor(out);
  }

  // Numbers 0 to 255, by the one path both architectures have: int32, int16, half (exact up to 2048), uint8.
  __aicore__ inline void to_bytes(const AscendC::LocalTensor<uint8_t>& out, const I32& numbers, int32_t count) {
    AscendC::Cast(short_, numbers, AscendC::RoundMode::CAST_NONE, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(half_, short_, AscendC::RoundMode::CAST_RINT, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(out, half_, AscendC::RoundMode::CAST_RINT, count);
  }

  AscendC::TPipe pipe_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> x_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> q_queue_, scale_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> value_buffer_, short_buffer_, half_buffer_;
  AscendC::GlobalTensor<T> x_;              // [num_rows, n]
  AscendC::GlobalTensor<uint8_t> q_;        // [num_rows, n / kPerByte]
  AscendC::GlobalTensor<uint8_t> scale_;    // [num_rows, row_blocks]
  F32 value_, magnitude_, small_, spread_;  // per value
  I32 normal_;
  U32 sign_, block_offset_, pair_offset_;
  F32 slots_, amax_, inverse_;  // per block; a slot is 32 bytes
  I32 exponent_;
  U32 slot_offset_;
  AscendC::LocalTensor<int16_t> short_;
  AscendC::LocalTensor<half> half_;
  int64_t num_rows_, n_, row_blocks_;
  int32_t block_size_, tile_;
};

}  // namespace v4npu
