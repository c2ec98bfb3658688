#include "isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "plan/backend_caps.h"
#include "plan/cpu_isa.h"

namespace v4npu {
namespace cpu {
namespace {

constexpr int kUndecided = -1;
std::atomic<int> decided{kUndecided};

std::mutex mutex;  // guards `requested`
std::optional<std::string> requested;

// `name`, if the machine can run it.
const std::string& checked(const char* source, const std::string& name, const DeviceCaps& machine) {
  const std::vector<std::string> names = runnable_cpu_isas(machine);
  if (name.empty() || std::find(names.begin(), names.end(), name) != names.end()) return name;
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
  throw std::invalid_argument(std::string("v4npu: ") + source + " must be one of " + list + " on this CPU, got \"" +
                              name + "\"");
}

Isa from_name(const std::string& name) {
  if (name == "amx") return Isa::amx;
  if (name == "avx512") return Isa::avx512;
  if (name == "avx512f") return Isa::avx512f;
  if (name == "avx2") return Isa::avx2;
  return name == "neon" ? Isa::neon : Isa::portable;
}

}  // namespace

std::string requested_isa(const DeviceCaps& machine) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!requested) {
    const char* value = std::getenv("V4NPU_CPU_ISA");
    requested = checked("V4NPU_CPU_ISA", value == nullptr ? "" : value, machine);
  }
  return *requested;
}

Isa isa() {
  int value = decided.load(std::memory_order_relaxed);
  if (value == kUndecided) {
    const DeviceCaps caps = cpu_caps();
    value = static_cast<int>(from_name(caps.only.empty() ? runnable_cpu_isas(caps).front() : caps.only));
    decided.store(value, std::memory_order_relaxed);
  }
  return static_cast<Isa>(value);
}

const DeviceCaps& this_cpu() {
  static const DeviceCaps caps = cpu_caps();
  return caps;
}

}  // namespace cpu

void use_cpu_isa(const std::string& name) {
  const DeviceCaps caps = cpu_caps();
  cpu::checked("name", name, caps);
  const std::lock_guard<std::mutex> lock(cpu::mutex);
  cpu::requested = name;
  cpu::decided.store(cpu::kUndecided, std::memory_order_relaxed);
}

}  // namespace v4npu
