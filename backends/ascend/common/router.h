// What the kernels that weigh experts share.
#pragma once

#include "rows.h"

namespace v4npu {

// score = sqrt(softplus(logits)); overwrites the logits; all tensors are distinct.
//
// softplus(l) = max(l, 0) + log(1 + e), e = exp(-|l|) <= 1, and log(1 + e) = 2 atanh(e / (2 + e)): exact to rounding
// however small e is, which Ln(1 + e) is not. The argument is at most 1/3, so eight terms reach 2^-29.
__aicore__ inline void sqrt_softplus(const AscendC::LocalTensor<float>& score,
                                     const AscendC::LocalTensor<float>& logits,
                                     const AscendC::LocalTensor<float>& ratio,
                                     const AscendC::LocalTensor<float>& square, int32_t count) {
  constexpr float kTerms[] = {1.0f / 15, 1.0f / 13, 1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f};
  AscendC::Abs(ratio, logits, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Muls(ratio, ratio, -1.0f, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Exp(ratio, ratio, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Adds(square, ratio, 2.0f, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Div(ratio, ratio, square, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Mul(square, ratio, ratio, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Muls(score, square, kTerms[0], count);
  AscendC::PipeBarrier<PIPE_V>();
  for (int32_t i = 1; i < 7; ++i) {
    AscendC::Adds(score, score, kTerms[i], count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mul(score, score, square, count);
    AscendC::PipeBarrier<PIPE_V>();
  }
  AscendC::Adds(score, score, kTerms[7], count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Mul(score, score, ratio, count);
  AscendC::Maxs(logits, logits, 0.0f, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Muls(score, score, 2.0f, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Add(score, score, logits, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Sqrt(score, score, count);
}

}  // namespace v4npu
