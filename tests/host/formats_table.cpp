// Prints what csrc/include/v4npu/formats.h computes, for test_formats.py to hold against torch.
#include <cstdio>
#include <initializer_list>

#include "v4npu/formats.h"

using namespace v4npu;

int main() {
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    std::printf("decode %d %a %a %a\n", code, e4m3_decode(byte), e2m1_decode(byte & 15), e8m0_decode(byte));
  }
  for (int code = 0; code < 65536; ++code) {
    const float x = bf16_decode(static_cast<uint16_t>(code));
    const float a = x < 0 ? -x : x;
    const float clamped = x < -kE2m1Max ? -kE2m1Max : x > kE2m1Max ? kE2m1Max : x;
    std::printf("encode %d %d %d %d %d\n", code, e4m3_encode(x), e2m1_encode(clamped), e4m3_block_scale(a),
                e2m1_block_scale(a));
  }
  // bf16 rounding: ties, near ties and carries around every mantissa, for a few exponents.
  for (uint32_t high = 0x3f00; high < 0x4000; ++high) {
    for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const uint32_t bits = high << 16 | low;
      std::printf("bf16 %u %d\n", bits, bf16_encode(bits_float(bits)));
    }
  }
}
