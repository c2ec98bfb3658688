// Reductions and gather over the first `count` elements of tensors in the UB.
#pragma once

#include <limits>

#include "vector.h"

namespace v4npu::emulation {

constexpr int64_t kRepeatBytes = 256;  // what the vector unit takes at a time

// Within one repeat the chip adds as a binary tree over neighbours (ReduceDataBlock reference page).
inline float tree_sum(const float* x, int64_t count) {
  float lane[kRepeatBytes / sizeof(float)] = {};
  std::copy(x, x + count, lane);
  for (int64_t width = std::size(lane); width > 1; width /= 2) {
    for (int64_t i = 0; i < width / 2; ++i) lane[i] = lane[2 * i] + lane[2 * i + 1];
  }
  return lane[0];
}

// ReduceSum reference page: 2201 adds the sums of the repeats in order; 3510 adds the repeats lane by lane from 256 to
// 1024 bytes, and otherwise forms a tree over the sums of the repeats too.
inline float chip_sum(const float* x, int64_t count) {
  constexpr int64_t kLanes = kRepeatBytes / sizeof(float);
  if (kIs3510 && count >= kLanes && count <= 4 * kLanes) {
    float lane[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) lane[i % kLanes] += x[i];
    return tree_sum(lane, kLanes);
  }
  std::vector<float> sums;
  for (int64_t i = 0; i < count; i += kLanes) sums.push_back(tree_sum(x + i, std::min(kLanes, count - i)));
  if (kIs3510 && sums.size() > 1) return chip_sum(sums.data(), static_cast<int64_t>(sums.size()));
  float total = sums[0];
  for (size_t i = 1; i < sums.size(); ++i) total += sums[i];
  return total;
}

// Elements of scratch that ReduceMax takes on 2201 (its reference page): a value and an index per repeat, and with the
// index asked for, the same for each further round.
inline int64_t reduce_max_scratch(int64_t count, int64_t element, bool with_index) {
  const int64_t per_block = kBlockBytes / element, per_repeat = kRepeatBytes / element;
  auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  int64_t outputs = std::max<int64_t>(count / per_repeat, 1) * 2, total = up(outputs, per_block) * per_block;
  while (with_index && outputs > 2) {
    outputs = up(outputs, per_repeat) * 2;
    total += up(outputs, per_block) * per_block;
  }
  return total;
}

}  // namespace v4npu::emulation

namespace AscendC {

// On 3510 two to four repeats are stored to a whole block, and of more the sum of each goes through the scratch, which
// may be the source.
template <typename T>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& sharedTmpBuffer,
               const int32_t count, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<T, float>, "only float is emulated");
  Op op("ReduceSum", Pipe::V, at);
  const float sum = chip_sum(op.read(src, count), count);
  if (kIs3510 && count * sizeof(T) > 4 * kRepeatBytes) {  // 2201 needs no scratch
    const int64_t bytes = count * sizeof(T), sums = (bytes + kRepeatBytes - 1) / kRepeatBytes;
    op.write(sharedTmpBuffer, sums);
    op.core().poison_local(sharedTmpBuffer.GetPhyAddr(), sums * sizeof(T));
  }
  const bool whole_block = kIs3510 && count * sizeof(T) > kRepeatBytes && count * sizeof(T) <= 4 * kRepeatBytes;
  *op.write(dst, 1, whole_block ? kBlockBytes : sizeof(T)) = sum;
}

// The largest value, and with calIndex its index behind it, as bits; of several largest the smallest index. What a NaN
// does is not documented. 3510 looks for an index from the lowest finite number and index 0 on, which only a larger one
// replaces.
template <typename T>
void ReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& sharedTmpBuffer,
               const int32_t count, bool calIndex = false,
               const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(std::is_same_v<T, float>, "only float is emulated");
  Op op("ReduceMax", Pipe::V, at);
  const T* x = op.read(src, count);
  for (int32_t i = 0; i < count; ++i) op.require(x[i] == x[i], "a NaN");
  int32_t best = 0;
  for (int32_t i = 1; i < count; ++i) {
    if (x[i] > x[best]) best = i;
  }
  const T value = x[best];
  op.require(kIs2201 || !calIndex || value > std::numeric_limits<T>::lowest(),
             "3510 finds no index of what is not above the lowest finite number");
  if (kIs2201) {  // 3510 needs no scratch
    const int64_t scratch = reduce_max_scratch(count, sizeof(T), calIndex);
    op.write(sharedTmpBuffer, scratch);
    op.core().poison_local(sharedTmpBuffer.GetPhyAddr(), scratch * sizeof(T));
  }
  T* out = op.write(dst, calIndex ? 2 : 1, calIndex ? 2 * sizeof(T) : sizeof(T));
  out[0] = value;
  if (calIndex) std::memcpy(&out[1], &best, sizeof best);
}

// dst[i] = the element at byte srcOffset[i] + srcBaseOffset of src.
template <typename T>
void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& srcOffset,
            const uint32_t srcBaseOffset, const uint32_t count,
            const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  static_assert(kOneOf<T, half, bfloat16_t, float, int16_t, uint16_t, int32_t, uint32_t>);
  Op op("Gather", Pipe::V, at);
#if __NPU_ARCH__ == 3510
  op.require((reinterpret_cast<uint64_t>(src.GetPhyAddr()) + srcBaseOffset) % 32 == 0,
             "what is gathered must begin at a multiple of 32 bytes");
#endif
  const uint32_t* offsets = op.read(srcOffset, count);
  std::vector<T> picked(count);
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t offset = uint64_t{offsets[i]} + srcBaseOffset;
    if (offset % sizeof(T) != 0)
      op.require(false, "misaligned, byte offset " + std::to_string(offset) + " of element " + std::to_string(i));
    picked[i] = *op.read_one(src, offset / sizeof(T));
  }
  op.require(dst.GetPhyAddr() != src.GetPhyAddr() && dst.GetPhyAddr() != srcOffset.GetPhyAddr(),
             "the destination of a gather must not be a source");
  std::copy(picked.begin(), picked.end(), op.write(dst, count));
}

}  // namespace AscendC
