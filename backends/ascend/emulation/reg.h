// Vector functions of the 3510 (`__simd_vf__`, started by asc_vf_call): registers, masks, and how their cycles count.
//
// To the pipes a vector function is one instruction of V. Inside it, registers order what depends on each other, but
// loads from and stores to the UB go down pipes of their own: a store that a later load or store meets, and a load that
// a later store overtakes, need a LocalMemBar in between, unless the store's register came from the load (LocalMemBar
// reference page). A register knows of every byte whether it means anything; what a mask leaves out is zero.
//
// Cycles [reg] are those of the tables "theoretical performance" and "single and dual issue" of the register API's
// appendix: two instructions start in a cycle, but of each kind that goes to a unit of its own one; dependences,
// latency and spilled registers (32, 8 masks) are left out.
#pragma once

#include <algorithm>
#include <cstring>

#include "tensor.h"

namespace v4npu::emulation {

constexpr int kVectorBytes = 256;

// Units that take one instruction at a time; everything else is Dual.
enum class Unit { Dual, Gather, Store, Reduce, Histogram, Squeeze, Interleave };
constexpr int kUnits = 7;

struct Register {
  uint8_t bytes[kVectorBytes];
  bool known[kVectorBytes] = {};
  uint64_t loaded = 0;  // number of the latest load that it depends on

  template <typename T>
  T lane(int i) const {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    return value;
  }
  template <typename T>
  void set(int i, T value) {
    std::memcpy(bytes + i * sizeof(T), &value, sizeof(T));
    std::fill_n(known + i * sizeof(T), sizeof(T), true);
  }
};

struct Mask {
  bool bits[kVectorBytes] = {};  // one a byte; an element looks at that of its first
  bool known = false;
};

template <typename T>
constexpr int kVectorLanes = kVectorBytes / static_cast<int>(sizeof(T));

// The vector function that runs on this core.
class VectorFunction {
 public:
  VectorFunction(Core& core, const Where& at) : core_(core), at_(at), id_(core.issue("asc_vf_call", Pipe::V, at)) {
    if (core.is_cube()) core.fail("asc_vf_call at " + line_of(at) + ": a cube core has no vector unit");
    start_ = number() + 1;
    core.enter_vector_function();
    slot() = this;
  }
  VectorFunction(const VectorFunction&) = delete;
  VectorFunction& operator=(const VectorFunction&) = delete;
  ~VectorFunction() {
    slot() = nullptr;
    core_.leave_vector_function();
  }

  static VectorFunction& current(const char* name, const Where& at) {
    if (slot() == nullptr) {
      Core::current().fail(std::string(name) + " at " + line_of(at) + ": register code outside a vector function");
    }
    return *slot();
  }

  // A pointer argument: the function may touch the buffer that it leads into.
  void give(uint64_t address) {
    const uint64_t resolved = core_.resolve(address);
    buffers_.push_back({resolved, core_.buffer_end(resolved)});
  }

  void count(const char* name, Unit unit, double cycles, const Where& at) {
    core_.count_instruction(at);
    core_.rename(id_, name, at);
    now_ = {name, at};
    all_ += cycles;
    units_[static_cast<int>(unit)] += cycles;
  }

  // Copies bytes of the UB and whether they mean anything; the number of the load.
  uint64_t load(uint64_t address, uint64_t bytes, uint64_t alignment, uint8_t* to, bool* known) {
    const uint64_t from = range(address, bytes, alignment);
    core_.read_local_unchecked(id_, from, bytes, known);
    std::memcpy(to, core_.local(from), bytes);
    const uint64_t stored = latest(stores(), from, bytes);
    if (stored >= std::max(start_, after_store_)) unordered(from, "reads", stored, "wrote", "VEC_STORE, VEC_LOAD");
    std::fill_n(loads().begin() + static_cast<uint32_t>(from), bytes, next());
    return number();
  }

  // loaded: the latest load that the bytes depend on.
  void store(uint64_t address, const uint8_t* data, uint64_t bytes, uint64_t loaded) {
    const uint64_t to = range(address, bytes, 1);
    core_.write_local(id_, to, bytes);
    std::memcpy(core_.local(to), data, bytes);
    const uint64_t read = latest(loads(), to, bytes), written = latest(stores(), to, bytes);
    if (read >= std::max(start_, after_load_) && read > loaded) {
      unordered(to, "writes", read, "read", "VEC_LOAD, VEC_STORE");
    }
    if (written >= std::max(start_, between_stores_)) unordered(to, "writes", written, "wrote", "VEC_STORE, VEC_STORE");
    std::fill_n(stores().begin() + static_cast<uint32_t>(to), bytes, next());
  }
  void check_alignment(uint64_t address, uint64_t alignment) const {
    if (address % alignment == 0) return;
    fail("misaligned, " + core_.describe_local(core_.resolve(address)) + " is not a multiple of " +
         std::to_string(alignment) + " bytes");
  }

  bool ignored(const Where& at) { return core_.ignored(at); }
  void bar_store_load() { after_store_ = number() + 1; }
  void bar_load_store() { after_load_ = number() + 1; }
  void bar_store_store() { between_stores_ = number() + 1; }

  // AR: the bytes that Squeeze packed and StoreUnAlign has not stored yet, and those stored since it was cleared.
  void clear_packed() { packed_ = {0, 0}; }
  void pack(int64_t bytes) {
    require(packed_.first >= 0, "AR was not cleared (ClearSpr)");
    require(!squeezed_, "two Squeezes without a StoreUnAlign in between");
    packed_.second = bytes;
    squeezed_ = true;
  }
  std::pair<int64_t, int64_t> take_packed() {
    require(squeezed_, "no Squeeze<STORE_REG> since the last StoreUnAlign");
    const std::pair<int64_t, int64_t> taken = packed_;
    packed_.first += packed_.second;
    squeezed_ = false;
    held_ = true;
    return taken;
  }
  void end_packed() { held_ = false; }

  void finish() {
    if (held_) fail("the last bytes of StoreUnAlign are still in its register (StoreUnAlignPost)");
    core_.rename(id_, "asc_vf_call", at_);
    core_.occupy(id_, std::max(all_ / 2, *std::max_element(units_ + 1, units_ + kUnits)), false);
  }

  [[noreturn]] void fail(const std::string& rule) const { core_.fail(core_.describe(id_) + ": " + rule); }
  void require(bool condition, const char* rule) const {
    if (!condition) fail(rule);
  }

 private:
  struct Buffer {
    uint64_t begin, end;
  };
  struct Access {
    const char* name;
    Where at;
  };

  // Where an access lies, once it is known to be allowed.
  uint64_t range(uint64_t address, uint64_t bytes, uint64_t alignment) const {
    const uint64_t resolved = core_.resolve(address);
    require(space_of(resolved) == Space::UB, "an address that is not in the UB");
    check_alignment(address, alignment);
    const Buffer* nearest = nullptr;
    for (const Buffer& buffer : buffers_) {
      if (resolved >= buffer.begin && resolved + bytes <= buffer.end) return resolved;
      if (resolved >= buffer.begin && (nearest == nullptr || buffer.begin > nearest->begin)) nearest = &buffer;
    }
    if (nearest == nullptr || resolved >= nearest->end) {
      fail(core_.describe_local(resolved) + " lies in no buffer that the call was given a pointer to");
    }
    core_.fail(core_.describe(id_) + " overflows by " + std::to_string(resolved + bytes - nearest->end) +
               " bytes: " + std::to_string(bytes) + " from " + core_.describe_local(resolved));
  }

  static uint64_t latest(const std::vector<uint64_t>& numbers, uint64_t address, uint64_t bytes) {
    const auto first = numbers.begin() + static_cast<uint32_t>(address);
    return *std::max_element(first, first + static_cast<int64_t>(bytes));
  }
  [[noreturn]] void unordered(uint64_t address, const char* does, uint64_t earlier, const char* did,
                              const char* order) const {
    const std::string now = core_.describe(id_);
    const Access& access = accesses_[earlier - start_];
    core_.rename(id_, access.name, access.at);
    core_.fail("race: " + now + " " + does + " " + core_.describe_local(address) + " that " + core_.describe(id_) +
               " " + did + ": no LocalMemBar<" + order + "> in between");
  }
  uint64_t next() {
    accesses_.push_back(now_);
    return ++number();
  }

  // By byte of the UB, the number of the access that touched it last. Numbers only grow, so nothing is ever cleared.
  static std::vector<uint64_t>& loads() {
    thread_local std::vector<uint64_t> numbers(256 * kKilo);
    return numbers;
  }
  static std::vector<uint64_t>& stores() {
    thread_local std::vector<uint64_t> numbers(256 * kKilo);
    return numbers;
  }
  static uint64_t& number() {
    thread_local uint64_t number = 0;
    return number;
  }
  static VectorFunction*& slot() {
    thread_local VectorFunction* function = nullptr;
    return function;
  }

  Core& core_;
  Where at_;
  InstructionId id_;
  uint64_t start_;
  uint64_t after_store_ = 0, after_load_ = 0, between_stores_ = 0;  // accesses from this number on are not ordered yet
  Access now_{};
  std::vector<Access> accesses_;  // of this function, in the order of their numbers
  std::vector<Buffer> buffers_;
  double all_ = 0, units_[kUnits] = {};
  std::pair<int64_t, int64_t> packed_{-1, 0};  // offset and bytes
  bool squeezed_ = false, held_ = false;
};

// One register instruction: its operands' lanes, and the result that its end puts into the destination.
class RegOp {
 public:
  RegOp(const char* name, Unit unit, double cycles, const Where& at) : function_(VectorFunction::current(name, at)) {
    function_.count(name, unit, cycles, at);
  }

  template <typename T>
  T get(const Register& source, int lane) {
    check_known(source, lane, sizeof(T));
    loaded_ = std::max(loaded_, source.loaded);
    return source.lane<T>(lane);
  }
  void check_known(const Register& source, int lane, int width) const {
    const bool* known = source.known + lane * width;
    if (std::find(known, known + width, false) == known + width) return;
    function_.fail("element " + std::to_string(lane) + " of a source, which nothing has written");
  }
  template <typename T>
  bool active(const Mask& mask, int lane) const {
    function_.require(mask.known, "a mask that nothing has set");
    return mask.bits[lane * static_cast<int>(sizeof(T))];
  }
  // A result of zeros, which is what a mask leaves of an element.
  static Register zeros() {
    Register result{};
    std::fill_n(result.known, kVectorBytes, true);
    return result;
  }
  void put(Register& destination, Register result) const {
    result.loaded = loaded_;
    destination = result;
  }
  void require(bool condition, const char* rule) const { function_.require(condition, rule); }
  VectorFunction& function() const { return function_; }

 private:
  VectorFunction& function_;
  uint64_t loaded_ = 0;
};

}  // namespace v4npu::emulation

namespace AscendC {

namespace Reg {

struct RegTrait {
  int REG_NUM = 1;
};
inline constexpr RegTrait RegTraitNumOne = {1};

template <typename T, const RegTrait& regTrait = RegTraitNumOne>
struct RegTensor : v4npu::emulation::Register {
  using ActualT = T;
  static_assert(regTrait.REG_NUM == 1, "pairs of registers are not emulated");
};

struct MaskReg : v4npu::emulation::Mask {};

struct DefaultType {};

enum class MaskMergeMode { UNKNOWN, MERGING, ZEROING };
enum class MaskPattern { ALL, VL1 };  // every element, the first one
enum class MemType { VEC_STORE, VEC_LOAD, VEC_ALL };

// The element type of an operand; a type named beside it must be the same.
namespace detail {
template <typename T, typename U>
struct ElementOf {
  using Type = typename U::ActualT;
  static_assert(std::is_same_v<T, DefaultType> || std::is_same_v<T, Type>, "the register holds another type");
};
}  // namespace detail
template <typename T, typename U>
using Element = typename detail::ElementOf<T, U>::Type;

// ---- masks

namespace detail {
template <typename T, typename F>
MaskReg make_mask(F set) {
  MaskReg mask;
  mask.known = true;
  for (int i = 0; i < v4npu::emulation::kVectorLanes<T>; ++i) {
    std::fill_n(mask.bits + i * sizeof(T), sizeof(T), set(i));
  }
  return mask;
}
}  // namespace detail

template <typename T, MaskPattern mode = MaskPattern::ALL, const RegTrait& regTrait = RegTraitNumOne>
MaskReg CreateMask(const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  RegOp("Reg::CreateMask", Unit::Dual, 1, at);
  return detail::make_mask<T>([](int i) { return mode == MaskPattern::ALL || i == 0; });
}

// The first scalarValue elements, which then counts what a further register has left to do.
template <typename T, const RegTrait& regTrait = RegTraitNumOne>
MaskReg UpdateMask(uint32_t& scalarValue, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using namespace v4npu::emulation;
  RegOp("Reg::UpdateMask", Unit::Dual, 1, at);
  const uint32_t count = scalarValue;
  scalarValue -= std::min<uint32_t>(count, kVectorLanes<T>);
  return detail::make_mask<T>([count](int i) { return static_cast<uint32_t>(i) < count; });
}

// ---- order in the UB

template <MemType src, MemType dst>
void LocalMemBar(const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  using enum MemType;
  constexpr bool all = src == VEC_ALL && dst == VEC_ALL;
  constexpr bool store_load = src == VEC_STORE && dst == VEC_LOAD, load_store = src == VEC_LOAD && dst == VEC_STORE;
  constexpr bool store_store = src == VEC_STORE && dst == VEC_STORE;
  static_assert(all || store_load || load_store || store_store, "this pair is not in the dialect");
  auto& function = v4npu::emulation::VectorFunction::current("Reg::LocalMemBar", at);
  if (function.ignored(at)) return;
  if constexpr (all || store_load) function.bar_store_load();
  if constexpr (all || load_store) function.bar_load_store();
  if constexpr (all || store_store) function.bar_store_store();
}

}  // namespace Reg
}  // namespace AscendC

namespace v4npu::emulation {

template <typename F, F function>
struct VectorCall;

template <typename... Args, void (*function)(Args...)>
struct VectorCall<void (*)(Args...), function> {
  static_assert(((std::is_pointer_v<Args> || std::is_arithmetic_v<Args>) && ...),
                "a vector function takes pointers and numbers only");

  void operator()(Args... args, const Where& at = Where::current()) const {
    VectorFunction call(Core::current(), at);
    auto give = [&](auto value) {
      if constexpr (std::is_pointer_v<decltype(value)>) call.give(reinterpret_cast<uint64_t>(value));
    };
    (give(args), ...);
    function(args...);
    call.finish();
  }
};

}  // namespace v4npu::emulation

// Starts a vector function: asc_vf_call<function>(arguments).
template <auto funcPtr>
inline constexpr v4npu::emulation::VectorCall<decltype(funcPtr), funcPtr> asc_vf_call{};
