// What every byte means as a code or as a scale, in fp32: tables in the UB that vector cores look bytes up in.
#pragma once

#include "rows.h"

namespace v4npu {

constexpr int32_t kByteCodes = 256;

// ue8m0: 2^(i - 127). index: scratch, which then holds 0 to 255.
__aicore__ inline void make_scale_table(AscendC::TPipe& pipe, const AscendC::LocalTensor<int32_t>& table,
                                        const AscendC::LocalTensor<int32_t>& index) {
  AscendC::CreateVecIndex(index, 0, kByteCodes);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::ShiftLeft(table.ReinterpretCast<uint32_t>(), index.ReinterpretCast<uint32_t>(), 23u, kByteCodes);
  pass<AscendC::HardEvent::V_S>(pipe);
  table.SetValue(0, 0x00400000);  // 2^-127
  table.SetValue(kByteCodes - 1, 0x7fc00000);
  pass<AscendC::HardEvent::S_V>(pipe);
}

// e4m3. Below the sign, a code is an exponent of bias 7 and 3 bits. The part from the smallest normal, 2^-6 (code 8),
// on are the upper bits of an fp32 but for the bias; that below counts in steps of 2^-9. index: 0 to 127, spoilt;
// spread: scratch of 128 values.
__aicore__ inline void make_e4m3_table(AscendC::TPipe& pipe, const AscendC::LocalTensor<int32_t>& table,
                                       const AscendC::LocalTensor<int32_t>& index,
                                       const AscendC::LocalTensor<float>& spread) {
  constexpr int32_t kPositive = kByteCodes / 2, kNormal = 8, kNan = 0x7fc00000;
  const AscendC::LocalTensor<float> values = table.ReinterpretCast<float>();
  AscendC::Maxs(table, index, kNormal, kPositive);
  AscendC::Mins(index, index, kNormal, kPositive);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::ShiftLeft(table.ReinterpretCast<uint32_t>(), table.ReinterpretCast<uint32_t>(), 20u, kPositive);
  AscendC::Cast(spread, index, AscendC::RoundMode::CAST_RINT, kPositive);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Muls(values, values, 0x1p120f, kPositive);
  AscendC::Muls(spread, spread, 0x1p-9f, kPositive);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Adds(spread, spread, -0x1p-6f, kPositive);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Add(values, values, spread, kPositive);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Muls(values[kPositive], values, -1.0f, kPositive);
  pass<AscendC::HardEvent::V_S>(pipe);
  table.SetValue(kPositive - 1, kNan);
  table.SetValue(kByteCodes - 1, kNan);
  pass<AscendC::HardEvent::S_V>(pipe);
}

}  // namespace v4npu
