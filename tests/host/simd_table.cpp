// Prints what simd.h computes, for test_simd.py. Built once per instruction set, as kernels are.
//   exp <max ulp> <x there>      every float32, or every 1/stride of them
//   softplus <max ulp> <x there>  likewise
//   e4m3|e2m1|bf16 <bits>...     decoded and rounded values
//   sum|max|dot|pairs <value>...
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>

namespace simd = v4npu::cpu::V4NPU_ISA;
using v4npu::bits_float, v4npu::float_bits;

namespace {

void print(const char* name, const float* values, int n) {
  std::printf("%s", name);
  for (int i = 0; i < n; ++i) std::printf(" %08x", float_bits(values[i]));
  std::printf("\n");
}

// |got - want| in units of the last place of a float32 near want.
double ulps(float got, double want) {
  if (std::isnan(want)) return std::isnan(got) ? 0 : INFINITY;
  const float nearest = static_cast<float>(want);
  if (std::isinf(nearest) || std::isinf(got)) return got == nearest ? 0 : INFINITY;
  const double spacing = std::ldexp(1.0, std::max(std::ilogb(want), -126) - 23);
  return want == 0 ? got != 0 : std::fabs(got - want) / spacing;
}

template <class Got, class Want>
void measure(const char* name, uint64_t stride, const Got& function, const Want& exact) {
  double worst = 0;
  float at = 0;
  for (uint64_t first = 0; first < (uint64_t{1} << 32); first += 16 * stride) {
    float x[16], y[16];
    for (uint64_t i = 0; i < 16; ++i) x[i] = bits_float(static_cast<uint32_t>(first + i * stride));
    simd::store(y, function(simd::load(x)));
    for (int i = 0; i < 16; ++i) {
      const double error = ulps(y[i], exact(static_cast<double>(x[i])));
      if (!(error <= worst)) worst = error, at = x[i];
    }
  }
  std::printf("%s %a %a\n", name, worst, at);
}

// Sums of N vectors side by side are those of each, in order and as codes of e2m1 are arranged.
template <int N = 16>
void sums_of_each(const simd::f32x16 (&rows)[16]) {
  simd::f32x16 some[N], arranged[N];
  float sums[16], of_arranged[16];
  for (int i = 0; i < N; ++i) some[i] = rows[i], arranged[i] = simd::arrange_e2m1(rows[i]);
  simd::reduce_add_each(some, sums);
  simd::reduce_e2m1_each(arranged, of_arranged);
  for (int i = 0; i < N; ++i) {
    if (sums[i] != simd::reduce_add(rows[i])) std::printf("reduce_add_each of %d wrong at %d\n", N, i);
    if (of_arranged[i] != sums[i]) std::printf("reduce_e2m1_each of %d wrong at %d\n", N, i);
  }
  if constexpr (N > 1) sums_of_each<N - 1>(rows);
}

// Values of the formats in the forms that products want.
void codes_for_products() {
  uint8_t codes[128];
  for (int code = 0; code < 256; ++code) {
    const float value = v4npu::e4m3_decode(static_cast<uint8_t>(code));
    for (int at = 0; at < 128; ++at) {
      std::memset(codes, 0x38, sizeof codes);
      codes[at] = static_cast<uint8_t>(code);
      const bool has = simd::has_e4m3_units(codes, sizeof codes);
      if (!has && std::isnormal(value) && std::fabs(value) >= 0x1p-6f)
        std::printf("has_e4m3_units wrong at %d\n", code);
      if (!has) continue;
      float units[16];
      simd::store(units, simd::load_e4m3_units(codes + at / 16 * 16));
      const float unit = units[at % 16], scaled = unit * simd::kE4m3Unit;
      if (scaled != value && !(simd::kE4m3Unit == 1 && std::isnan(value)))
        std::printf("e4m3 units wrong at %d\n", code);
      if (unit != 0 && std::fabs(unit) < 0x1p-126f) std::printf("e4m3 units wrong: subnormal at %d\n", code);
    }
  }
  for (int scale = 0; scale < 256; ++scale) {
    for (int i = 0; i < 16; ++i) codes[i] = static_cast<uint8_t>(37 * i + scale);
    const simd::f32x32 pair = simd::load_e2m1_scaled(codes, static_cast<uint8_t>(scale));
    for (int half = 0; half < 2; ++half) {
      float got[16], want[16];
      for (int i = 0; i < 16; ++i) {
        const int byte = codes[8 * half + i / 2], nibble = i % 2 == 0 ? byte & 15 : byte >> 4;
        want[i] = v4npu::e2m1_decode(static_cast<uint8_t>(nibble)) * v4npu::e8m0_decode(static_cast<uint8_t>(scale));
      }
      simd::store(want, simd::arrange_e2m1(simd::load(want)));
      simd::store(got, pair.half[half]);
      for (int i = 0; i < 16; ++i) {
        if (got[i] != want[i] && scale != 255) std::printf("load_e2m1_scaled wrong at %d, %d\n", scale, i);
      }
    }
  }
}

// Both encoders on one vector.
void encode(const float* x) {
  uint8_t e4m3[16], e2m1[8];
  float rounded4[16], rounded2[16], decoded4[16], decoded2[16];
  const simd::f32x16 v = simd::load(x);
  simd::store_e4m3(e4m3, v);
  simd::store_e2m1(e2m1, v);
  simd::store(rounded4, simd::round_e4m3(v));
  simd::store(rounded2, simd::round_e2m1(v));
  simd::store(decoded4, simd::load_e4m3(e4m3));
  simd::store(decoded2, simd::load_e2m1(e2m1));
  for (int i = 0; i < 16; ++i) {
    if (e4m3[i] != v4npu::e4m3_encode(x[i])) std::printf("e4m3 wrong at %08x\n", float_bits(x[i]));
    if (std::isnan(x[i])) continue;
    if (v4npu::e2m1_unpack(e2m1[i / 2], i) != v4npu::e2m1_encode(x[i]))
      std::printf("e2m1 wrong at %08x\n", float_bits(x[i]));
    if (float_bits(rounded4[i]) != float_bits(decoded4[i]) || float_bits(rounded2[i]) != float_bits(decoded2[i]))
      std::printf("rounding wrong at %08x\n", float_bits(x[i]));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t stride = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  measure("exp", stride, [](simd::f32x16 x) { return simd::exp(x); }, [](double x) { return std::exp(x); });
  measure(
      "softplus", stride, [](simd::f32x16 x) { return simd::softplus(x); },
      [](double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); });

  float out[16];
  for (int first = 0; first < 256; first += 16) {
    uint8_t codes[16];
    for (int i = 0; i < 16; ++i) codes[i] = static_cast<uint8_t>(first + i);
    simd::store(out, simd::load_e4m3(codes));
    print("e4m3", out, 16);
  }
  for (int first = 0; first < 256; first += 8) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(first + i);
    simd::store(out, simd::load_e2m1(bytes));
    print("e2m1", out, 16);
  }

  // Values around every rounding boundary of bfloat16, as bits: in, then out.
  for (uint32_t upper = 0; upper < 0x10000; upper += 2) {
    for (uint32_t lower : {0x0000u, 0x7fffu, 0x8000u, 0x8001u}) {
      float x[16];
      for (uint32_t i = 0; i < 16; ++i) x[i] = bits_float((upper + i % 2) << 16 | lower);
      encode(x);
      simd::bf16 rounded[16];
      simd::store(rounded, simd::load(x));
      for (int i = 0; i < 16; ++i) {
        if (rounded[i].bits != v4npu::bf16_encode(x[i])) std::printf("bf16 wrong at %08x\n", float_bits(x[i]));
      }
      simd::store(out, simd::load(rounded));
      for (int i = 0; i < 16; ++i) {
        if (float_bits(out[i]) != uint32_t{rounded[i].bits} << 16) std::printf("bf16 load wrong at %a\n", x[i]);
      }
    }
  }

  // Tails: nothing is read or written beyond n, lanes beyond n are zero.
  for (int n = 1; n < 16; ++n) {
    float* x = static_cast<float*>(std::malloc(static_cast<size_t>(n) * sizeof(float)));
    for (int i = 0; i < n; ++i) x[i] = static_cast<float>(i + 1);
    simd::store(out, simd::load_partial(x, n));
    for (int i = 0; i < 16; ++i) {
      if (out[i] != (i < n ? i + 1.0f : 0.0f)) std::printf("tail load wrong at %d of %d\n", i, n);
    }
    float to[16];
    simd::bf16 to_bf16[16];
    for (int i = 0; i < 16; ++i) to[i] = -1.0f, to_bf16[i].bits = 0xbf80;
    simd::store_partial(to, simd::load(out), n);
    simd::store_partial(to_bf16, simd::load(out), n);
    simd::store(out, simd::load_partial(to_bf16, n));
    for (int i = 0; i < 16; ++i) {
      if (to[i] != (i < n ? x[i] : -1.0f)) std::printf("tail store wrong at %d of %d\n", i, n);
      if (simd::widen(to_bf16[i]) != to[i]) std::printf("bf16 tail store wrong at %d of %d\n", i, n);
      if (out[i] != (i < n ? x[i] : 0.0f)) std::printf("bf16 tail load wrong at %d of %d\n", i, n);
    }
    std::free(x);
  }

  float a[16], b[16];
  for (int i = 0; i < 16; ++i) {
    a[i] = std::ldexp(1.0f + static_cast<float>(i) / 16, 3 * i % 17 - 8);
    b[i] = std::ldexp(1.0f - static_cast<float>(i) / 32, 5 * i % 13 - 6) * (i % 2 == 0 ? 1.0f : -1.0f);
  }
  const simd::f32x16 va = simd::load(a), vb = simd::load(b);
  const auto show = [&](const char* name, simd::f32x16 v) {
    simd::store(out, v);
    print(name, out, 16);
  };
  show("a", va);
  show("b", vb);
  show("add", va + vb);
  show("sub", va - vb);
  show("mul", va * vb);
  show("div", va / vb);
  show("max", simd::max(va, vb));
  show("min", simd::min(va, vb));
  show("swap", simd::swap_pairs(va));
  show("swap1", simd::swap_lanes<1>(va));
  show("swap2", simd::swap_lanes<2>(va));
  show("swap4", simd::swap_lanes<4>(va));
  show("swap8", simd::swap_lanes<8>(va));
  show("sqrt", simd::sqrt(va));
  show("magnitude", simd::keep_bits(vb, 0x7fffffff));
  show("negative", simd::join_bits(va, simd::set1(-0.0f)));
  show("max_bits", simd::max_bits(va, simd::keep_bits(vb, 0x7fffffff)));
  show("round", simd::round(va * vb));
  const float sum = simd::reduce_add(va), largest = simd::reduce_max(vb);
  print("reduce_add", &sum, 1);
  print("reduce_max", &largest, 1);
  float with_nan[16];
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) with_nan[j] = j == i ? std::numeric_limits<float>::quiet_NaN() : a[j];
    if (!std::isnan(simd::reduce_max_bits(simd::load(with_nan)))) std::printf("reduce_max_bits wrong at %d\n", i);
  }
  if (simd::reduce_max_bits(va) != simd::reduce_max(va)) std::printf("reduce_max_bits wrong\n");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  simd::f32x16 square[16];
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) out[j] = static_cast<float>(16 * i + j);
    square[i] = simd::load(out);
  }
  simd::transpose(square);
  for (int i = 0; i < 16; ++i) {
    simd::store(out, square[i]);
    for (int j = 0; j < 16; ++j) {
      if (out[j] != static_cast<float>(16 * j + i)) std::printf("transpose wrong at %d, %d\n", i, j);
    }
    const uint32_t last = simd::above(simd::load(out), static_cast<float>(224 + i));
    for (int j = 0; j < 16; ++j) out[j] = j == i ? nan : -INFINITY;
    const uint32_t broken = simd::above(simd::load(out), INFINITY);
    out[i] = -1.0f;
    if (last != 0x8000 || broken != 1u << i || simd::above(simd::load(out), -INFINITY) != 1u << i)
      std::printf("above wrong at %d\n", i);
  }
  show("nan_max", simd::max(simd::set1(1.0f), simd::set1(nan)));
  show("nan_min", simd::min(simd::set1(1.0f), simd::set1(nan)));

  simd::bf16 x[32], y[32];
  for (int i = 0; i < 32; ++i) {
    simd::narrow(&x[i], static_cast<float>(i + 1));
    simd::narrow(&y[i], static_cast<float>(i % 5 - 2));
  }
  show("dot", simd::dot_bf16(simd::set1(100.0f), simd::load_bf16x32(x), simd::load_bf16x32(y)));

  uint8_t codes[64];
  for (int first = 0; first < 256; first += 64) {
    for (int i = 0; i < 64; ++i) codes[i] = static_cast<uint8_t>(first + i);
    simd::bf16x32 values[2];
    simd::ScaledE4m3().load(codes, 127, values);
    for (int i = 0; i < 64; ++i) {
      simd::bf16 got[32];
      simd::store(got, values[i / 32]);
      const float want = v4npu::e4m3_decode(codes[i]), value = simd::widen(got[i % 32]);
      if (value != want && !(std::isnan(value) && std::isnan(want))) std::printf("ScaledE4m3 wrong at %d\n", codes[i]);
    }
  }

  simd::f32x16 rows[16], pairs[2];
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) out[j] = std::ldexp(static_cast<float>(1 + i + j * j), j - i);
    rows[i] = simd::load(out);
  }
  sums_of_each(rows);
  codes_for_products();
  simd::pair_up(simd::load_bf16x32(x), simd::load_bf16x32(y), pairs);
  show("pairs", pairs[0]);
  show("pairs_above", pairs[1]);
  show("pairs_rounded", simd::pair_up(simd::set1(1.00390625f), simd::set1(-3.0f)));
}
