// Sorting of (score, index) pairs, best score first: 8 bytes each, the index in the upper four. Scores are float.
//
// Equal scores keep their order, those of an earlier queue first (Sort32 and MrgSort reference pages). What a NaN does
// is not documented, so there may be none.
#pragma once

#include <algorithm>

#include "tensor.h"

namespace v4npu::emulation {

constexpr double kSortRate = 2;             // elements a cycle ("theoretical performance of vector instructions")
constexpr int32_t kMaxSortRepeats = 255;    // Sort32, MrgSort and Extract
constexpr uint16_t kMaxQueueLength = 4095;  // of MrgSort, in pairs
constexpr int32_t kSorted = 32;             // elements that Sort32 sorts at a time

struct Pair {
  float score;
  uint32_t index;
};
static_assert(sizeof(Pair) == 8);

inline bool better(const Pair& a, const Pair& b) { return a.score > b.score; }

inline void check_repeats(const Op& op, int32_t repeats) {
  op.require(repeats <= kMaxSortRepeats, "more than 255 repeats");
}

}  // namespace v4npu::emulation

namespace AscendC {

// Each 32 elements for themselves.
template <typename T>
void Sort32(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<uint32_t>& src1,
            const int32_t repeatTime, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<T, float>, "only float scores are emulated");
  Op op("Sort32", Pipe::V, at);
  check_repeats(op, repeatTime);
  const int64_t count = int64_t{kSorted} * repeatTime;
  const float* scores = op.read(src0, count, 128);
  const uint32_t* indices = op.read(src1, count, 128);
  std::vector<Pair> pairs(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    op.require(scores[i] == scores[i], "a NaN");
    pairs[i] = {scores[i], indices[i]};
  }
  for (int64_t i = 0; i < count; i += kSorted) std::stable_sort(&pairs[i], &pairs[i] + kSorted, better);
  std::memcpy(op.write(dst, 2 * count, 256), pairs.data(), pairs.size() * sizeof(Pair));
  op.takes(count / kSortRate);
}

struct MrgSort4Info {
  MrgSort4Info() = default;
  MrgSort4Info(const uint16_t lengths[4], const bool ifExhaustedSuspensionIn, const uint16_t validBitIn,
               const uint16_t repeatTimesIn)
      : ifExhaustedSuspension(ifExhaustedSuspensionIn), validBit(validBitIn), repeatTimes(repeatTimesIn) {
    std::copy_n(lengths, 4, elementLengths);
  }

  uint16_t elementLengths[4] = {0};
  bool ifExhaustedSuspension = false;
  uint16_t validBit = 0;
  uint8_t repeatTimes = 1;
};

template <typename T>
struct MrgSortSrcList {
  MrgSortSrcList() = default;
  MrgSortSrcList(const LocalTensor<T>& src1In, const LocalTensor<T>& src2In, const LocalTensor<T>& src3In,
                 const LocalTensor<T>& src4In)
      : src1(src1In), src2(src2In), src3(src3In), src4(src4In) {}

  LocalTensor<T> src1, src2, src3, src4;
};

// Up to four sorted queues into one. Repeats take as many queues again, which lie behind the first ones.
template <typename T>
void MrgSort(const LocalTensor<T>& dst, const MrgSortSrcList<T>& src, const MrgSort4Info& params,
             const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<T, float>, "only float scores are emulated");
  Op op("MrgSort", Pipe::V, at);
  const LocalTensor<T> queues[] = {src.src1, src.src2, src.src3, src.src4};
  const int valid = params.validBit == 3 ? 2 : params.validBit == 7 ? 3 : params.validBit == 15 ? 4 : 0;
  const int repeats = params.repeatTimes;
  op.require(valid > 0, "validBit must be 3, 7 or 15");
  op.require(!params.ifExhaustedSuspension, "stopping at the end of a queue is not emulated");
  op.require(repeats > 0, "a count of 0");
  uint64_t length = 0;
  for (int q = 0; q < valid; ++q) {
    op.require(params.elementLengths[q] <= kMaxQueueLength, "a queue of more than 4095 pairs");
    length += params.elementLengths[q];
    const bool behind =
        q == 0 || (params.elementLengths[q] == params.elementLengths[0] &&
                   queues[q].GetPhyAddr() == queues[q - 1].GetPhyAddr() + params.elementLengths[0] * sizeof(Pair));
    op.require(repeats == 1 || (valid == 4 && behind), "repeats want four queues of a length, one behind the other");
  }
  std::vector<Pair> merged;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    for (int q = 0; q < valid; ++q) {
      if (params.elementLengths[q] == 0) continue;
      const int64_t floats = 2 * int64_t{params.elementLengths[q]};
      const LocalTensor<T> queue = advanced(queues[q], repeat * length * sizeof(Pair));
      const auto* pairs = reinterpret_cast<const Pair*>(op.read(queue, floats, sizeof(Pair)));
      op.require(std::is_sorted(pairs, pairs + floats / 2, better), "a queue that is not sorted");
      const auto start = static_cast<int64_t>(merged.size());
      merged.insert(merged.end(), pairs, pairs + floats / 2);
      if (q > 0) {
        const auto first = merged.begin() + static_cast<int64_t>(repeat * length);
        std::inplace_merge(first, merged.begin() + start, merged.end(), better);
      }
    }
  }
  const auto* to = reinterpret_cast<const Pair*>(op.write_apart(dst, 2 * static_cast<int64_t>(merged.size())));
  std::copy(merged.begin(), merged.end(), const_cast<Pair*>(to));
  op.takes(merged.size() / kSortRate);
}

// Scores and indices of 32 pairs a repeat.
template <typename T>
void Extract(const LocalTensor<T>& dstValue, const LocalTensor<uint32_t>& dstIndex, const LocalTensor<T>& sorted,
             const int32_t repeatTime, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<T, float>, "only float scores are emulated");
  Op op("Extract", Pipe::V, at);
  check_repeats(op, repeatTime);
  const int64_t count = int64_t{kSorted} * repeatTime;
  const float* pairs = op.read(sorted, 2 * count);
  float* scores = op.write_apart(dstValue, count);
  uint32_t* indices = op.write_apart(dstIndex, count);
  for (int64_t i = 0; i < count; ++i) {
    scores[i] = pairs[2 * i];
    std::memcpy(indices + i, pairs + 2 * i + 1, sizeof(uint32_t));
  }
}

// Elements of T that so many pairs take.
template <typename T>
uint32_t GetSortLen(const uint32_t elemCount) {
  return elemCount * static_cast<uint32_t>(sizeof(v4npu::emulation::Pair) / sizeof(T));
}

}  // namespace AscendC
