// GlobalTensor, LocalTensor, and Op: the announcement of what an instruction reads and writes.
#pragma once

#include <algorithm>

#include "core.h"
#include "time_model.h"
#include "types.h"

namespace v4npu::emulation {

constexpr Space space_at(AscendC::TPosition position) {
  using AscendC::TPosition;
  switch (position) {
    case TPosition::A1:
    case TPosition::B1: return Space::L1;
    case TPosition::A2: return Space::L0A;
    case TPosition::B2: return Space::L0B;
    case TPosition::CO1: return Space::L0C;
    default: return Space::UB;
  }
}

}  // namespace v4npu::emulation

namespace AscendC {

template <typename T>
class GlobalTensor {
 public:
  static constexpr uint64_t kUnbounded = UINT64_MAX;

  void SetGlobalBuffer(__gm__ T* buffer, uint64_t size) {
    data_ = buffer;
    size_ = size;
  }
  void SetGlobalBuffer(__gm__ T* buffer) { SetGlobalBuffer(buffer, kUnbounded); }
  const __gm__ T* GetPhyAddr() const { return data_; }
  uint64_t GetSize() const { return size_; }
  GlobalTensor operator[](uint64_t offset) const {
    GlobalTensor part;  // integers, so that an offset far outside is reported when it is used
    part.data_ =
        reinterpret_cast<T*>(reinterpret_cast<uint64_t>(data_) + offset * sizeof(T) / v4npu::emulation::kValues<T>);
    part.size_ = size_ == kUnbounded ? size_ : size_ - std::min(size_, offset);
    return part;
  }
  T GetValue(uint64_t offset, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) const;

 private:
  __gm__ T* data_ = nullptr;
  uint64_t size_ = 0;  // elements; kUnbounded: only the bounds of the kernel's argument are checked
};

template <typename T>
class LocalTensor {
 public:
  LocalTensor() = default;
  LocalTensor(uint64_t address, uint64_t end, TPosition position) : address_(address), end_(end), position_(position) {}

  // Placed by hand, in bytes of the memory of its position; tileSize in elements.
  LocalTensor(TPosition pos, uint32_t addr, uint32_t tileSize,
              const v4npu::emulation::Where& at = v4npu::emulation::Where::current());

  LocalTensor operator[](uint32_t offset) const {
    LocalTensor part = *this;
    part.address_ += uint64_t{offset} * sizeof(T) / v4npu::emulation::kValues<T>;
    return part;
  }
  template <typename U>
  LocalTensor<U> ReinterpretCast() const {
    return LocalTensor<U>(address_, end_, position_);
  }
  int32_t GetPosition() const { return static_cast<int32_t>(position_); }
  uint64_t GetPhyAddr() const { return address_; }
  uint64_t end() const { return end_; }  // of the buffer it lies in

  T GetValue(uint32_t offset, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) const;
  template <typename S>
  void SetValue(uint32_t offset, S value, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) const;

 private:
  uint64_t address_ = 0, end_ = 0;
  TPosition position_ = TPosition::VECCALC;
};

}  // namespace AscendC

namespace v4npu::emulation {

template <typename T>
using Local = AscendC::LocalTensor<T>;
template <typename T>
using Global = AscendC::GlobalTensor<T>;

template <typename T>
Local<T> advanced(const Local<T>& tensor, uint64_t bytes) {
  return tensor.template ReinterpretCast<uint8_t>()[static_cast<uint32_t>(bytes)].template ReinterpretCast<T>();
}

// One instruction. Operands are announced first sources, then destination; the returned pointers are the bytes
// themselves. A destination may be a source exactly, or lie apart from it, but not overlap it partly.
class Op {
 public:
  Op(const char* name, Pipe pipe, const Where& at)
      : core_(Core::current()), pipe_(pipe), id_(core_.issue(name, pipe, at)) {}
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;
  ~Op() { core_.occupy(id_, cycles(), global_ > 0); }

  template <typename T>
  const T* read(const Local<T>& source, int64_t count, uint64_t alignment = kBlockBytes) {
    const auto [address, bytes] = range(source, count, alignment);
    core_.read_local(id_, address, bytes);
    largest_ = std::max(largest_, bytes);
    sources_.push_back({address, bytes});
    return reinterpret_cast<const T*>(core_.local(address));
  }

  // The bytes of a source that may hold nothing, and whether they do hold something.
  template <typename T>
  std::pair<const T*, bool> read_unchecked(const Local<T>& source, int64_t count) {
    const auto [address, bytes] = range(source, count, kBlockBytes);
    const auto valid = std::make_unique<bool[]>(bytes);
    core_.read_local_unchecked(id_, address, bytes, valid.get());
    return {reinterpret_cast<const T*>(core_.local(address)), valid[0]};
  }

  // One element of a source read in no order; what a gather does.
  template <typename T>
  const T* read_one(const Local<T>& source, uint64_t element) {
    const auto [address, bytes] = range(source[static_cast<uint32_t>(element)], 1, sizeof(T));
    core_.read_local(id_, address, bytes);
    return reinterpret_cast<const T*>(core_.local(address));
  }

  template <typename T>
  T* write(const Local<T>& destination, int64_t count, uint64_t alignment = kBlockBytes) {
    return write_to(core_.resolve(destination.GetPhyAddr()), destination, count, alignment);
  }

  // To where no source lies.
  template <typename T>
  T* write_apart(const Local<T>& destination, int64_t count) {
    const uint64_t address = core_.resolve(destination.GetPhyAddr());
    for (const Range& source : sources_) {
      const bool apart = address + static_cast<uint64_t>(count) * sizeof(T) <= source.address ||
                         source.address + source.bytes <= address;
      if (!apart) core_.fail(core_.describe(id_) + ": " + core_.describe_local(address) + " overlaps a source");
    }
    return write(destination, count);
  }

  // To the UB of a vector core.
  template <typename T>
  T* write_to_vector(int vector, const Local<T>& destination, int64_t count) {
    return write_to(address_in(1 + vector, Space::UB, static_cast<uint32_t>(destination.GetPhyAddr())), destination,
                    count, kBlockBytes);
  }

  // Global memory, in bytes from the start of the tensor.
  template <typename T>
  const uint8_t* read(const Global<T>& source, int64_t offset, uint64_t bytes) {
    uint8_t* data = global(source, offset, bytes);
    core_.read_global(id_, data, bytes);
    global_ += bytes;
    return data;
  }
  template <typename T>
  uint8_t* write(const Global<T>& destination, int64_t offset, uint64_t bytes) {
    uint8_t* data = global(destination, offset, bytes);
    core_.write_global(id_, data, bytes);
    global_ += bytes;
    return data;
  }

  void require(bool condition, const std::string& rule) const {
    if (!condition) core_.fail(core_.describe(id_) + ": " + rule);
  }

  // The two vector cores get half of what is written each.
  void to_both_vectors() { both_vectors_ = true; }

  // What sorting counts: it is slower than its bytes.
  void takes(double cycles) { at_least_ = cycles; }

  // What a multiplication counts: products of two fractals.
  void multiply(int64_t products) { products_ += products; }

  Core& core() const { return core_; }

 private:
  struct Range {
    uint64_t address, bytes;
  };

  template <typename T>
  T* write_to(uint64_t resolved, const Local<T>& destination, int64_t count, uint64_t alignment) {
    const auto [address, bytes] = range(resolved, destination, count, alignment);
    for (const Range& source : sources_) {
      const bool apart = address + bytes <= source.address || source.address + source.bytes <= address;
      if (!apart && address != source.address) {
        core_.fail(core_.describe(id_) + ": " + core_.describe_local(address) + " overlaps a source partly");
      }
    }
    core_.write_local(id_, address, bytes);
    account_write(address, bytes);
    return reinterpret_cast<T*>(core_.local(address));
  }

  void account_write(uint64_t address, uint64_t bytes) {
    largest_ = std::max(largest_, bytes);
    written_ += bytes;
    if (pipe_ == Pipe::MTE1) load_cycles_ += bytes / l1_rate(core_.launch().sku.arch, space_of(address));
  }

  double cycles() const {
    const Sku& sku = core_.launch().sku;
    switch (pipe_) {
      case Pipe::S: return 0;
      case Pipe::V: return std::max(at_least_, largest_ / kVectorRate);
      case Pipe::M: return products_ / kFractalProducts;
      case Pipe::MTE1: return load_cycles_;
      default: break;
    }
    // Straight from L0C or the UB to memory on the chip; two UBs are written at once.
    if (global_ == 0) return written_ / (kDirectRate * (both_vectors_ ? 2 : 1));
    const double rate = memory_rate(sku, !core_.is_cube() && !core_.mixed());
    return rate > 0 ? global_ / rate : 0;
  }

  template <typename T>
  uint8_t* global(const Global<T>& tensor, int64_t offset, uint64_t bytes) const {
    const uint64_t end = (offset + bytes + sizeof(T) - 1) / sizeof(T) * kValues<T>;
    require(tensor.GetSize() == Global<T>::kUnbounded || (offset >= 0 && end <= tensor.GetSize()),
            "out of bounds, element " + std::to_string(end) + " of a GlobalTensor that ends at element " +
                std::to_string(tensor.GetSize()));
    return reinterpret_cast<uint8_t*>(const_cast<T*>(tensor.GetPhyAddr())) + offset;
  }

  template <typename T>
  Range range(const Local<T>& tensor, int64_t count, uint64_t alignment) {
    return range(core_.resolve(tensor.GetPhyAddr()), tensor, count, alignment);
  }
  template <typename T>
  Range range(uint64_t address, const Local<T>& tensor, int64_t count, uint64_t alignment) {
    // The 2201 does nothing for a count of 0, the 3510 promises nothing (every reference page): not portable.
    require(count > 0, "a count of " + std::to_string(count));
    require((pipe_ != Pipe::V && pipe_ != Pipe::S) || space_of(address) == Space::UB, "an operand is not in the UB");
    require(owner_of(address) == core_.number() || pipe_ == Pipe::MTE3 || pipe_ == Pipe::FIX,
            "an operand lies in a memory of another core");
    const uint64_t bytes = static_cast<uint64_t>(count) * sizeof(T), end = tensor.GetPhyAddr() + bytes;
    if (end > tensor.end()) {
      core_.fail(core_.describe(id_) + " overflows by " + std::to_string(end - tensor.end()) +
                 " bytes: " + std::to_string(bytes) + " from " + core_.describe_local(address));
    }
    if (address % alignment != 0) {
      core_.fail(core_.describe(id_) + ": misaligned, " + core_.describe_local(address) + " is not a multiple of " +
                 std::to_string(alignment) + " bytes");
    }
    return {address, bytes};
  }

  Core& core_;
  Pipe pipe_;
  InstructionId id_;
  uint64_t largest_ = 0, written_ = 0, global_ = 0, products_ = 0;  // bytes, products
  double at_least_ = 0, load_cycles_ = 0;                           // of sorting, of a load from L1
  bool both_vectors_ = false;
  std::vector<Range> sources_;
};

}  // namespace v4npu::emulation

namespace AscendC {

template <typename T>
LocalTensor<T>::LocalTensor(TPosition pos, uint32_t addr, uint32_t tileSize, const v4npu::emulation::Where& at)
    : position_(pos) {
  using namespace v4npu::emulation;
  const uint64_t bytes = uint64_t{tileSize} * sizeof(T) / kValues<T>;
  address_ = Core::current().place(space_at(pos), addr, bytes, at);
  end_ = address_ + bytes;
}

template <typename T>
T GlobalTensor<T>::GetValue(uint64_t offset, const v4npu::emulation::Where& at) const {
  v4npu::emulation::Op op("GlobalTensor::GetValue", v4npu::emulation::Pipe::S, at);
  return *reinterpret_cast<const T*>(op.read((*this)[offset], 0, sizeof(T)));
}

template <typename T>
T LocalTensor<T>::GetValue(uint32_t offset, const v4npu::emulation::Where& at) const {
  v4npu::emulation::Op op("LocalTensor::GetValue", v4npu::emulation::Pipe::S, at);
  return *op.read((*this)[offset], 1, sizeof(T));
}

template <typename T>
template <typename S>
void LocalTensor<T>::SetValue(uint32_t offset, S value, const v4npu::emulation::Where& at) const {
  v4npu::emulation::Op op("LocalTensor::SetValue", v4npu::emulation::Pipe::S, at);
  *op.write((*this)[offset], 1, sizeof(T)) = static_cast<T>(value);
}

}  // namespace AscendC
