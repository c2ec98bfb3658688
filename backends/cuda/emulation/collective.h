// Warp operations and tensor cores. Fragments of mma.m16n8k16, with g = lane / 4 and c = 2 * (lane % 4), two bf16 to a
// register, the lower half first (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//   a[0] (row g, k c)   a[1] (row g+8, k c)   a[2] (row g, k c+8)   a[3] (row g+8, k c+8)
//   b[0] (k c, column g)   b[1] (k c+8, column g)
//   d[0] d[1] (row g, columns c, c+1)   d[2] d[3] (row g+8, columns c, c+1)
// How a tensor core adds is not documented. The host does what was measured on Ampere (Fasi, Higham, Mikaitis, Pranesh,
// "Numerical behavior of NVIDIA tensor cores", 2021): 8 products and d are added at once and cut off to float, not
// rounded. Low bits differ on a device all the same.
#pragma once

#include <cmath>

#include "memory.h"
#include "v4npu/formats.h"

namespace v4npu::cuda::emulation {

uint32_t shuffle_xor(uint32_t v, int mask, const char* file, int line) {
  struct Lane {
    uint32_t in, out;
    int mask;
  } mine{v, 0, mask};
  together("shuffle_xor", where_of(file, line), mine, [](Lane* const* lanes, int) {
    for (int i = 0; i < kLanes; ++i) lanes[i]->out = lanes[(i ^ lanes[i]->mask) % kLanes]->in;
  });
  return mine.out;
}

uint32_t shuffle(uint32_t v, int lane, const char* file, int line) {
  struct Lane {
    uint32_t in, out;
    int from;
  } mine{v, 0, lane};
  together("shuffle", where_of(file, line), mine, [](Lane* const* lanes, int) {
    for (int i = 0; i < kLanes; ++i) lanes[i]->out = lanes[lanes[i]->from % kLanes]->in;
  });
  return mine.out;
}

uint32_t ballot(bool v, const char* file, int line) {
  struct Lane {
    bool in;
    uint32_t out;
  } mine{v, 0};
  together("ballot", where_of(file, line), mine, [](Lane* const* lanes, int) {
    uint32_t mask = 0;
    for (int i = 0; i < kLanes; ++i) mask |= uint32_t{lanes[i]->in} << i;
    for (int i = 0; i < kLanes; ++i) lanes[i]->out = mask;
  });
  return mine.out;
}

inline float cut_off(double x) {
  const auto nearest = static_cast<float>(x);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, const char* file, int line) {
  struct Lane {
    float* d;
    const uint32_t *a, *b;
  } mine{d, a, b};
  together("mma", where_of(file, line), mine, [](Lane* const* lanes, int) {
    const auto half = [](uint32_t pair, int i) { return bf16_decode(static_cast<uint16_t>(pair >> (i * 16))); };
    float A[16][16], B[16][8];
    for (int l = 0; l < kLanes; ++l) {
      const int g = l / 4, c = l % 4 * 2;
      for (int i = 0; i < 2; ++i) {
        for (int r = 0; r < 4; ++r) A[g + r % 2 * 8][c + r / 2 * 8 + i] = half(lanes[l]->a[r], i);
        for (int r = 0; r < 2; ++r) B[c + r * 8 + i][g] = half(lanes[l]->b[r], i);
      }
    }
    for (int l = 0; l < kLanes; ++l) {
      for (int r = 0; r < 4; ++r) {
        const int row = l / 4 + r / 2 * 8, column = l % 4 * 2 + r % 2;
        float sum = lanes[l]->d[r];
        for (int first = 0; first < 16; first += 8) {
          double exact = sum;
          for (int k = first; k < first + 8; ++k) exact += static_cast<double>(A[row][k]) * B[k][column];
          sum = cut_off(exact);
        }
        lanes[l]->d[r] = sum;
      }
    }
  });
}

// Lane l gives row l % 8 of 8x8 matrix l / 8 (16 bytes); register m of lane l is row l / 4, columns 2 (l % 4) and the
// next of matrix m, or of its transpose.
void load_matrices(uint32_t* r, const void* row, bool transposed, const char* file, int line) {
  if (!in_shared(static_cast<const unsigned char*>(row))) fault("load_matrices: not from shared memory");
  touch_aligned(row, 16, false, __builtin_return_address(0));
  struct Lane {
    uint32_t* r;
    const uint16_t* row;
    bool transposed;
  } mine{r, static_cast<const uint16_t*>(row), transposed};
  together("load_matrices", where_of(file, line), mine, [](Lane* const* lanes, int) {
    for (int l = 0; l < kLanes; ++l) {
      for (int m = 0; m < 4; ++m) {
        uint32_t pair = 0;
        for (int i = 0; i < 2; ++i) {
          const int major = l / 4, minor = l % 4 * 2 + i;
          const uint16_t value =
              lanes[l]->transposed ? lanes[m * 8 + minor]->row[major] : lanes[m * 8 + major]->row[minor];
          pair |= uint32_t{value} << (i * 16);
        }
        lanes[l]->r[m] = pair;
      }
    }
  });
}

}  // namespace v4npu::cuda::emulation
