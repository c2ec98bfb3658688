// Sine and cosine of fp32 angles with the vector instructions that 2201 and 3510 share; |angle| up to 2^20 * pi.
//
// angle = k pi + r, |r| <= pi/2. pi is cut into pieces of 14, 14 and 24 bits and k into a multiple of 1024 and a rest
// of 10 bits, so that the products which cancel are exact in fp32; r is good to 2^-24. Then polynomials in r^2, fitted
// at the Chebyshev nodes of [0, (pi/2)^2]: sine within 2.2e-8, cosine within 8.1e-9, before rounding.
#pragma once

#include "kernel_operator.h"

namespace v4npu {

// Work tensors of the size of the angles.
struct SinCosWork {
  AscendC::LocalTensor<float> high, low, product;
};

// value -= factor * constant
__aicore__ inline void subtract_product(const AscendC::LocalTensor<float>& value,
                                        const AscendC::LocalTensor<float>& factor, float constant,
                                        const AscendC::LocalTensor<float>& product, int32_t count) {
  AscendC::Muls(product, factor, constant, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Sub(value, value, product, count);
  AscendC::PipeBarrier<PIPE_V>();
}

// sum = c[0] + x (c[1] + x (c[2] + ...))
template <int32_t n>
__aicore__ inline void polynomial(const AscendC::LocalTensor<float>& sum, const AscendC::LocalTensor<float>& x,
                                  const float (&c)[n], int32_t count) {
  AscendC::Muls(sum, x, c[n - 1], count);
  AscendC::PipeBarrier<PIPE_V>();
  for (int32_t i = n - 2; i > 0; --i) {
    AscendC::Adds(sum, sum, c[i], count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mul(sum, sum, x, count);
    AscendC::PipeBarrier<PIPE_V>();
  }
  AscendC::Adds(sum, sum, c[0], count);
  AscendC::PipeBarrier<PIPE_V>();
}

// Overwrites the angles; all tensors are distinct. Ends with a barrier.
__aicore__ inline void sin_cos(const AscendC::LocalTensor<float>& sin, const AscendC::LocalTensor<float>& cos,
                               const AscendC::LocalTensor<float>& angle, const SinCosWork& work, int32_t count) {
  constexpr float kPi[] = {0x1.9218p+1f, 0x1.ed5p-13f, 0x1.10b46p-29f};
  constexpr float kInversePi = 0x1.45f306p-2f;
  constexpr float kSin[] = {1.0f, -0x1.555556p-3f, 0x1.11110cp-7f, -0x1.a017dp-13f, 0x1.71700ep-19f, -0x1.9a68ap-26f};
  constexpr float kCos[] = {1.0f,           -0.5f, 0x1.555556p-5f, -0x1.6c16bap-10f, 0x1.a017a8p-16f, -0x1.278b2ep-22f,
                            0x1.119a34p-29f};
  const AscendC::LocalTensor<float>& high = work.high;
  const AscendC::LocalTensor<float>& low = work.low;

  AscendC::Muls(low, angle, kInversePi, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Cast(low, low, AscendC::RoundMode::CAST_RINT, count);  // k
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Muls(high, low, 0x1p-10f, count);
  AscendC::Muls(sin, low, 0.5f, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Cast(high, high, AscendC::RoundMode::CAST_RINT, count);
  AscendC::Cast(sin, sin, AscendC::RoundMode::CAST_FLOOR, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Muls(high, high, 0x1p10f, count);
  AscendC::Muls(sin, sin, 2.0f, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Sub(sin, low, sin, count);  // k mod 2
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Sub(low, low, high, count);  // |low| <= 512
  AscendC::Muls(sin, sin, -2.0f, count);
  for (float piece : kPi) {
    subtract_product(angle, high, piece, work.product, count);
    subtract_product(angle, low, piece, work.product, count);
  }
  AscendC::Adds(high, sin, 1.0f, count);  // (-1)^k, the sign of both
  AscendC::Mul(low, angle, angle, count);
  AscendC::PipeBarrier<PIPE_V>();
  polynomial(cos, low, kCos, count);
  AscendC::Mul(cos, cos, high, count);
  polynomial(sin, low, kSin, count);
  AscendC::Mul(sin, sin, angle, count);
  AscendC::PipeBarrier<PIPE_V>();
  AscendC::Mul(sin, sin, high, count);
  AscendC::PipeBarrier<PIPE_V>();
}

}  // namespace v4npu
