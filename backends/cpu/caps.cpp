#include <unistd.h>

#include <algorithm>
#include <thread>

#include "isa.h"
#include "plan/backend_caps.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace v4npu {
namespace {

#if defined(__x86_64__) && defined(__linux__)
// Linux hands out the 8 KB of tile state to a process that asks, for all its threads from then on.
bool may_use_tiles() {
  constexpr long kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
}

// By CPUID: not every compiler knows the names.
void add_amx(std::vector<std::string>& found) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  if ((edx & kTile) == 0 || !may_use_tiles()) return;
  found.emplace_back("amx_tile");
  if ((edx & kBf16) != 0) found.emplace_back("amx_bf16");
}
#endif

// The running machine decides, not the one that compiled: one wheel serves them all.
std::vector<std::string> isa_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) found.emplace_back("avx2");
  if (__builtin_cpu_supports("fma")) found.emplace_back("fma");
  if (__builtin_cpu_supports("f16c")) found.emplace_back("f16c");
  if (__builtin_cpu_supports("avx512f")) found.emplace_back("avx512f");
  if (__builtin_cpu_supports("avx512bw")) found.emplace_back("avx512bw");
  if (__builtin_cpu_supports("avx512dq")) found.emplace_back("avx512dq");
  if (__builtin_cpu_supports("avx512vl")) found.emplace_back("avx512vl");
  if (__builtin_cpu_supports("avx512vnni")) found.emplace_back("avx512vnni");
  if (__builtin_cpu_supports("avx512vbmi")) found.emplace_back("avx512vbmi");
  if (__builtin_cpu_supports("avx512bf16")) found.emplace_back("avx512bf16");
#if defined(__linux__)
  add_amx(found);
#endif
#elif defined(__aarch64__) && defined(__linux__)
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  if (hwcap & HWCAP_ASIMD) found.emplace_back("neon");
  if (hwcap & HWCAP_ASIMDDP) found.emplace_back("dotprod");
  if (hwcap & HWCAP_SVE) found.emplace_back("sve");
#ifdef HWCAP2_BF16
  if (hwcap2 & HWCAP2_BF16) found.emplace_back("bf16");
#endif
#ifdef HWCAP2_I8MM
  if (hwcap2 & HWCAP2_I8MM) found.emplace_back("i8mm");
#endif
  (void)hwcap2;
#elif defined(__aarch64__)
  found.emplace_back("neon");
#endif
  return found;
}

DeviceCaps machine() {
  DeviceCaps caps;
  caps.kind = "cpu";
#if defined(__x86_64__)
  caps.name = "x86_64";
#elif defined(__aarch64__)
  caps.name = "aarch64";
#else
  caps.name = "generic";
#endif
  caps.available = true;
  caps.features = isa_features();
  caps.num_cores = static_cast<int>(std::thread::hardware_concurrency());
#ifdef _SC_LEVEL2_CACHE_SIZE
  caps.l2_bytes = std::max<int64_t>(0, sysconf(_SC_LEVEL2_CACHE_SIZE));
#endif
  caps.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  return caps;
}

}  // namespace

DeviceCaps cpu_caps() {
  static const DeviceCaps found = machine();
  DeviceCaps caps = found;
  caps.only = cpu::requested_isa(found);
  return caps;
}

}  // namespace v4npu
