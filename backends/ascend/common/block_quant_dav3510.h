// Block quantisation to e4m3 in register code of dav_3510, byte-exact with the contract. Steps as in act_quant.h.
//
// A tile is a part of one row: whole blocks, at most 2048 values. block_size must be a multiple of 8 (32 bytes of fp32)
// and at most 2048. Blocks may end anywhere in a register, so values, their blocks' amax and the scales' inverses go
// through the UB, with a LocalMemBar where one loop reads what another has stored.
// UB in bytes, T = fp32 / 16 bit:  x 2 x 8192 / 4096   codes 2 x 2048   scales 2 x 256   values 8448   table 8192
//                                  per block 2 x 1024   total 39680 / 31488
#pragma once

#include "rows.h"

static_assert(__NPU_ARCH__ == 3510, "register code is a matter of dav_3510");

namespace v4npu {

constexpr uint32_t kLanes32 = 64;  // of a register
constexpr int32_t kInfinityBits = 0x7f800000;
constexpr AscendC::Reg::CastTrait kWiden = {AscendC::Reg::RegLayout::ZERO, AscendC::Reg::SatMode::UNKNOWN,
                                            AscendC::Reg::MaskMergeMode::ZEROING, AscendC::RoundMode::UNKNOWN};
constexpr AscendC::Reg::CastTrait kToE4m3 = {AscendC::Reg::RegLayout::ZERO, AscendC::Reg::SatMode::SAT,
                                             AscendC::Reg::MaskMergeMode::ZEROING, AscendC::RoundMode::CAST_RINT};

__aicore__ inline uint16_t registers_of(uint32_t count) {
  return static_cast<uint16_t>((count + kLanes32 - 1) / kLanes32);
}

// To fp32, exactly.
template <typename T>
__simd_vf__ inline void widen_vf(__ubuf__ T* x, __ubuf__ float* values, uint32_t count, uint16_t registers) {
  using namespace AscendC::Reg;
  RegTensor<float> value;
  for (uint16_t r = 0; r < registers; ++r) {
    MaskReg mask = UpdateMask<float>(count);
    if constexpr (sizeof(T) == sizeof(float)) {
      LoadAlign(value, x + r * kLanes32);
    } else {
      RegTensor<T> source;
      LoadAlign<T, LoadDist::DIST_UNPACK_B16>(source, x + r * kLanes32);
      Cast<float, T, kWiden>(value, source, mask);
    }
    StoreAlign(values + r * kLanes32, value, mask);
  }
}

// Steps 1 and 2: the scales as bytes, and one over each. last: values of the last block.
__simd_vf__ inline void scale_vf(__ubuf__ float* values, __ubuf__ int32_t* amax, __ubuf__ uint8_t* scales,
                                 __ubuf__ uint32_t* inverses, uint16_t blocks, uint32_t block_size, uint32_t last,
                                 uint16_t registers) {
  using namespace AscendC::Reg;
  MaskReg all = CreateMask<float, MaskPattern::ALL>();
  RegTensor<uint32_t> value, magnitude_bits, largest_scale;
  RegTensor<int32_t> largest;
  Duplicate(magnitude_bits, 0x7fffffffu);
  Duplicate(largest_scale, 254u);  // 255 is NaN
  for (uint16_t b = 0; b < blocks; ++b) {
    uint32_t left = b + 1 < blocks ? block_size : last;
    const auto parts = static_cast<uint16_t>((left + kLanes32 - 1) / kLanes32);
    Duplicate(largest, 0);
    for (uint16_t part = 0; part < parts; ++part) {
      MaskReg mask = UpdateMask<float>(left);
      LoadAlign((RegTensor<float>&)value, values + b * block_size + part * kLanes32);
      And(value, value, magnitude_bits, mask);
      Max(largest, largest, (RegTensor<int32_t>&)value, all);
    }
    Reduce<AscendC::ReduceType::MAX>(largest, largest, all);
    Mins(largest, largest, kInfinityBits, all);  // a NaN counts as infinity
    StoreAlign<int32_t, StoreDist::DIST_FIRST_ELEMENT_B32>(amax + b, largest, all);
  }
  LocalMemBar<MemType::VEC_STORE, MemType::VEC_LOAD>();
  uint32_t left = blocks;
  for (uint16_t r = 0; r < registers; ++r) {
    MaskReg mask = UpdateMask<float>(left);
    LoadAlign(largest, amax + r * kLanes32);
    auto& scaled = (RegTensor<float>&)largest;
    auto& exponent = (RegTensor<uint32_t>&)largest;
    Maxs(scaled, scaled, 1e-4f, mask);
    Muls(scaled, scaled, 1.0f / 448.0f, mask);
    Adds(largest, largest, 0x7fffff, mask);  // carries into the exponent unless the mantissa is zero: a ceiling
    ShiftRights(exponent, exponent, static_cast<int16_t>(23), mask);
    Mins(exponent, exponent, 254u, mask);
    StoreAlign<uint8_t, StoreDist::DIST_PACK4_B32>(scales + r * kLanes32, (RegTensor<uint8_t>&)exponent, mask);
    // 2^(127 - byte), whose biased exponent is 254 - byte. Beside an infinity (byte 254) a normal number has to do: the
    // infinity still gives the largest code, and only neighbours above 2^115 feel the difference.
    Sub(exponent, largest_scale, exponent, mask);
    Maxs(exponent, exponent, 1u, mask);
    ShiftLefts(exponent, exponent, static_cast<int16_t>(23), mask);
    StoreAlign(inverses + r * kLanes32, exponent, mask);
  }
}

// Steps 3 to 5. block_of: the block of each value.
__simd_vf__ inline void encode_vf(__ubuf__ float* values, __ubuf__ float* inverses, __ubuf__ uint32_t* block_of,
                                  __ubuf__ uint8_t* codes, uint32_t count, uint16_t registers) {
  using namespace AscendC::Reg;
  RegTensor<float> value, inverse;
  RegTensor<uint32_t> block, magnitude_bits, magnitude, after;
  RegTensor<fp8_e4m3fn_t> code;
  Duplicate(magnitude_bits, 0x7fffffffu);
  for (uint16_t r = 0; r < registers; ++r) {
    MaskReg nan, mask = UpdateMask<float>(count);
    auto& bits = (RegTensor<uint32_t>&)value;
    auto& code_bits = (RegTensor<uint32_t>&)code;
    LoadAlign(value, values + r * kLanes32);
    LoadAlign(block, block_of + r * kLanes32);
    Gather(inverse, inverses, block, mask);
    Mul(value, value, inverse, mask);
    And(magnitude, bits, magnitude_bits, mask);
    Xor(bits, bits, magnitude, mask);  // the sign
    Compares<uint32_t, AscendC::CMPMODE::GT>(nan, magnitude, static_cast<uint32_t>(kInfinityBits), mask);
    Mins(magnitude, magnitude, 0x43e00000u, mask);  // 448
    Or(bits, bits, magnitude, mask);
    Cast<fp8_e4m3fn_t, float, kToE4m3>(code, value, mask);
    Duplicate(after, 1u, nan);  // the code after the largest is NaN
    Add(code_bits, code_bits, after, mask);
    StoreAlign<uint8_t, StoreDist::DIST_PACK4_B32>(codes + r * kLanes32, (RegTensor<uint8_t>&)code, mask);
  }
}

template <typename T>
class RegBlockQuantKernel {
 public:
  __aicore__ inline RegBlockQuantKernel(GM_ADDR x, GM_ADDR q, GM_ADDR scale, int64_t num_rows, int64_t n,
                                        int64_t block_size)
      : num_rows_(num_rows), n_(n), block_size_(static_cast<int32_t>(block_size)) {
    row_blocks_ = (n + block_size - 1) / block_size;
    tile_ = kTile / block_size_ * block_size_;
    x_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(x), num_rows * n);
    q_.SetGlobalBuffer(q, num_rows * n);
    scale_.SetGlobalBuffer(scale, num_rows * row_blocks_);
    pipe_.InitBuffer(x_queue_, 2, kTile * sizeof(T));
    pipe_.InitBuffer(q_queue_, 2, kTile);
    pipe_.InitBuffer(scale_queue_, 2, kMaxBlocks);
    pipe_.InitBuffer(value_buffer_, (kTile + kLanes32) * sizeof(float));  // a load starts at a block and may go beyond
    pipe_.InitBuffer(block_of_buffer_, kTile * sizeof(int32_t));
    pipe_.InitBuffer(amax_buffer_, kMaxBlocks * sizeof(int32_t));
    pipe_.InitBuffer(inverse_buffer_, kMaxBlocks * sizeof(float));
    const AscendC::LocalTensor<int32_t> block_of = block_of_buffer_.template Get<int32_t>();
    for (int32_t b = 0; b < tile_ / block_size_; ++b) AscendC::Duplicate(block_of[b * block_size_], b, block_size_);
  }

  __aicore__ inline void run() {
    const BlockRows rows(num_rows_);
    for (int64_t row = rows.first; row < rows.last; ++row) {
      for (int64_t start = 0; start < n_; start += tile_) {
        const uint32_t count = static_cast<uint32_t>(n_ - start < tile_ ? n_ - start : tile_);
        load(row * n_ + start, count);
        scale(row * row_blocks_ + start / block_size_, count);
        encode(row * n_ + start, count);
      }
    }
  }

 private:
  static constexpr int32_t kTile = 2048;
  static constexpr int32_t kMaxBlocks = kTile / 8;

  template <typename U>
  static __aicore__ inline __ubuf__ U* address(const AscendC::LocalTensor<U>& tensor) {
    return reinterpret_cast<__ubuf__ U*>(tensor.GetPhyAddr());
  }
  template <typename U>
  static __aicore__ inline __ubuf__ U* address(AscendC::TBuf<AscendC::TPosition::VECCALC>& buffer) {
    return address(buffer.template Get<U>());
  }

  __aicore__ inline void load(int64_t start, uint32_t count) {
    AscendC::LocalTensor<T> in = x_queue_.template AllocTensor<T>();
    AscendC::DataCopyPad(in, x_[start], one_run<T>(count), AscendC::DataCopyPadExtParams<T>());
    x_queue_.EnQue(in);
    in = x_queue_.template DeQue<T>();
    asc_vf_call<widen_vf<T>>(address(in), address<float>(value_buffer_), count, registers_of(count));
    AscendC::PipeBarrier<PIPE_V>();
    x_queue_.FreeTensor(in);
  }

  __aicore__ inline void scale(int64_t start, uint32_t count) {
    const auto size = static_cast<uint32_t>(block_size_);
    const auto blocks = static_cast<uint16_t>((count + size - 1) / size);
    AscendC::LocalTensor<uint8_t> bytes = scale_queue_.template AllocTensor<uint8_t>();
    asc_vf_call<scale_vf>(address<float>(value_buffer_), address<int32_t>(amax_buffer_), address(bytes),
                          address<uint32_t>(inverse_buffer_), blocks, size, count - (blocks - 1) * size,
                          registers_of(blocks));
    AscendC::PipeBarrier<PIPE_V>();
    scale_queue_.EnQue(bytes);
    bytes = scale_queue_.template DeQue<uint8_t>();
    AscendC::DataCopyPad(scale_[start], bytes, one_run<uint8_t>(blocks));
    scale_queue_.FreeTensor(bytes);
  }

  __aicore__ inline void encode(int64_t start, uint32_t count) {
    AscendC::LocalTensor<uint8_t> out = q_queue_.template AllocTensor<uint8_t>();
    asc_vf_call<encode_vf>(address<float>(value_buffer_), address<float>(inverse_buffer_),
                           address<uint32_t>(block_of_buffer_), address(out), count, registers_of(count));
    q_queue_.EnQue(out);
    out = q_queue_.template DeQue<uint8_t>();
    AscendC::DataCopyPad(q_[start], out, one_run<uint8_t>(count));
    q_queue_.FreeTensor(out);
  }

  AscendC::TPipe pipe_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> x_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> q_queue_, scale_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> value_buffer_, block_of_buffer_, amax_buffer_, inverse_buffer_;
  AscendC::GlobalTensor<T> x_;            // [num_rows, n]
  AscendC::GlobalTensor<uint8_t> q_;      // [num_rows, n]
  AscendC::GlobalTensor<uint8_t> scale_;  // [num_rows, row_blocks]
  int64_t num_rows_, n_, row_blocks_;
  int32_t block_size_, tile_;
};

}  // namespace v4npu
