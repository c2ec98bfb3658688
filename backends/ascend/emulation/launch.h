// Runs a kernel, block after block, on one emulated SKU; the plain C entry that a test calls through ctypes.
#pragma once

#include <tuple>
#include <utility>

#include "core.h"
#include "time_model.h"
#include "types.h"

namespace v4npu::emulation {

namespace detail {

template <typename... Args, size_t... I>
void call(void (*kernel)(Args...), void* const* values, std::index_sequence<I...>) {
  kernel(*static_cast<Args*>(values[I])...);
}

// Runs `kernel` on every core of blocks that run at once; block_cycles gets the modelled cycles of each.
inline void run_blocks(Launch& launch, int first, int num_blocks, const std::vector<int>& cores,
                       std::vector<double>& block_cycles, const std::function<void()>& kernel) {
  const std::string label = launch.kernel + " on " + std::string(launch.sku.name);
  auto label_of = [&](int block) { return label + ", block " + std::to_string(block) + ": "; };
  CrossFlags flags(first, num_blocks, cores, num_blocks > 1 ? label + ": " : label_of(first));
  struct Running {
    std::unique_ptr<Block> block;  // only while it runs: it is large
    size_t ended = 0;
  };
  std::vector<Running> running(num_blocks);
  flags.run([&](int number, int core_number) {
    auto& [block, ended] = running[number - first];
    if (block == nullptr) {
      block = std::make_unique<Block>(Block{number, cores.size() > 1, label_of(number), flags});
    }
    Core core(launch, *block, core_number);
    Core::slot() = &core;
    kernel();
    core.finish();
    Core::slot() = nullptr;
    if (++ended < cores.size()) return;
    block_cycles[number] = block->clocks.end();
    block.reset();
  });
}

}  // namespace detail

struct Report {
  int64_t ub_bytes;        // allocated by the block that took most
  int64_t instructions;    // issued by all blocks
  const char* waits;       // "file:line" of every wait and barrier passed, one a line; as long-lived as the message
  const char* trace;       // Chrome trace, if asked for
  double modelled_us;      // time_model.h; 0 where the SKU's rates have no source
  double busy_us[kPipes];  // by pipe, all blocks together
};

inline std::vector<int> cores_of(AscendC::KernelMetaType type) {
  switch (type) {
    case AscendC::KERNEL_TYPE_AIV_ONLY:
    case AscendC::KERNEL_TYPE_MIX_AIV_1_0: return {1};
    case AscendC::KERNEL_TYPE_AIC_ONLY:
    case AscendC::KERNEL_TYPE_MIX_AIC_1_0: return {kCubeCore};
    case AscendC::KERNEL_TYPE_MIX_AIC_1_2: return {kCubeCore, 1, 2};
  }
  return {};
}

// values: a pointer to each argument's value, in order. ignored_wait: "file:line" or "". Returns null, or what went
// wrong; valid until the next call on this thread.
template <typename... Args>
const char* run(void (*kernel)(Args...), AscendC::KernelMetaType type, const char* kernel_name, const char* sku_name,
                int64_t num_blocks, const Region* regions, int64_t num_regions, void* const* values, int64_t num_values,
                const char* ignored_wait, bool with_trace, Report* report) {
  thread_local std::string message, waits, trace;
  const Sku* sku = find_sku(sku_name);
  message = sku == nullptr                              ? std::string("unknown SKU ") + sku_name
            : sku->arch != __NPU_ARCH__                 ? std::string(sku_name) + " is of another architecture"
            : num_values != sizeof...(Args)             ? std::string(kernel_name) + ": wrong number of arguments"
            : num_blocks < 1 || num_blocks > UINT16_MAX ? "the number of blocks must be in 1..65535"
                                                        : std::string();
  if (!message.empty()) return message.c_str();
  const std::vector<int> cores = cores_of(type);
  const int chip_cores = cores[0] == kCubeCore ? sku->num_cube : sku->num_vector;
  const bool flags = type != AscendC::KERNEL_TYPE_AIV_ONLY && type != AscendC::KERNEL_TYPE_AIC_ONLY;
  const bool together = flags && num_blocks <= chip_cores;
  Launch launch{*sku, kernel_name, num_blocks, {regions, regions + num_regions}, ignored_wait, flags, together,
                {},   {},          {}};
  launch.issued.resize(1);
  std::vector<double> block_cycles(num_blocks);
  try {
    const int group = together ? static_cast<int>(num_blocks) : 1;
    for (int first = 0; first < num_blocks; first += group) {
      detail::run_blocks(launch, first, group, cores, block_cycles,
                         [&] { detail::call(kernel, values, std::index_sequence_for<Args...>{}); });
    }
  } catch (const Fault& fault) {
    message = fault.what();
  }
  Core::slot() = nullptr;
  waits.clear();
  for (const std::string& wait : launch.waits) waits += wait + "\n";
  trace = with_trace ? chrome_trace(launch) : std::string();
  *report = {static_cast<int64_t>(launch.used_ub),
             static_cast<int64_t>(launch.issued.size()) - 1,
             waits.c_str(),
             trace.c_str(),
             0,
             {}};
  if (sku->memory_rate > 0 && message.empty()) {
    const double cycles_per_us = sku->ghz * 1e3;
    bound_by_memory(launch, block_cycles);
    report->modelled_us = makespan(block_cycles, chip_cores) / cycles_per_us;
    for (const Instruction& i : launch.issued) report->busy_us[index(i.lane.pipe)] += i.cycles / cycles_per_us;
  }
  return message.empty() ? nullptr : message.c_str();
}

// Begin and size of the allocation that holds an address, or nothing.
using AllocationOf = void (*)(const void* address, uint8_t** begin, int64_t* bytes);

namespace detail {

// Where the arguments lie that a launch packed one behind the other, each at its own alignment.
template <typename... Args>
int64_t unpack(const char* packed, void** values) {
  int64_t at = 0, i = 0;
  ((at = (at + alignof(Args) - 1) / alignof(Args) * alignof(Args), values[i++] = const_cast<char*>(packed) + at,
    at += sizeof(Args)),
   ...);
  return at;
}

}  // namespace detail

// The same from what the runtime's aclrtLaunchKernel* was given. A pointer says nothing about its tensor: what the
// kernel may touch is the allocations that its pointers lead into.
template <typename... Args>
const char* run_packed(void (*kernel)(Args...), AscendC::KernelMetaType type, const char* kernel_name, const char* sku,
                       int64_t num_blocks, const char* packed, int64_t bytes, AllocationOf allocation_of) {
  constexpr size_t kArguments = sizeof...(Args);
  constexpr bool is_pointer[] = {std::is_pointer_v<Args>...};
  thread_local std::string message;
  void* values[kArguments];
  const int64_t needed = detail::unpack<Args...>(packed, values);
  if (bytes < needed) {
    message = std::string(kernel_name) + " takes " + std::to_string(needed) + " bytes of arguments, got " +
              std::to_string(bytes);
    return message.c_str();
  }
  std::vector<Region> regions;
  for (size_t i = 0; i < kArguments; ++i) {
    void* address = is_pointer[i] ? *static_cast<void**>(values[i]) : nullptr;
    if (address == nullptr) continue;
    Region region{nullptr, 0, Access::InOut, "the device memory that an argument points into"};
    allocation_of(address, &region.data, &region.bytes);
    if (region.bytes == 0) {
      message = std::string(kernel_name) + ": argument " + std::to_string(i) + " is not memory of the device";
      return message.c_str();
    }
    regions.push_back(region);
  }
  Report report;
  return run(kernel, type, kernel_name, sku, num_blocks, regions.data(), static_cast<int64_t>(regions.size()), values,
             kArguments, "", false, &report);
}

}  // namespace v4npu::emulation
