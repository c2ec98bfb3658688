// The chips that can be emulated: what each has of cores and memory, and where the number comes from.
//
// Sources: [arch] the architecture pages "NPU 2201" and "NPU 3510" of the asc-devkit documentation;
//          [ini]  platform_config/*.ini of the CANN runtime, one file per SKU.
// 950: of 256 KB UB the toolchain keeps 6 KB for the stack of vector functions and 2 KB for itself [arch].
// 910B: all 192 KB are usable; the basic APIs that need the last 8 KB as scratch (Select modes 1 and 2) [arch] are not
// emulated.
#pragma once

#include <cstdint>
#include <string_view>

namespace v4npu::emulation {

constexpr int64_t kKilo = 1024;

struct ArchLimits {
  int arch;                       // value of __NPU_ARCH__
  int64_t ub, l1, l0a, l0b, l0c;  // bytes per core
  int64_t l0mx;                   // scales of L0A, and as many of L0B
};

inline constexpr ArchLimits kArchLimits[] = {
    //     UB           L1           L0A         L0B         L0C          MX  [arch]
    {2201, 192 * kKilo, 512 * kKilo, 64 * kKilo, 64 * kKilo, 128 * kKilo, 0},
    {3510, 248 * kKilo, 512 * kKilo, 64 * kKilo, 64 * kKilo, 256 * kKilo, 4 * kKilo},
};

struct Sku {
  std::string_view name;
  int arch;
  int num_cube;    // AI cores, each with one cube core ...
  int num_vector;  // ... and two vector cores
  double ghz;
  int memory_gib;
  // Bytes a cycle between global memory and the cores of one AI core when all are busy; 0 = no source, no time
  // modelled.
  double memory_rate;
};

inline constexpr Sku kSkus[] = {
    // cores, clock and memory [ini]; the 910_93 figures are per die, of which a package has two. Rates: ddr_rate [ini],
    // but for the 36-core SKUs, whose files repeat it unchanged: there the announced 1.6 and 4 TB/s.
    {"ascend910b1", 2201, 24, 48, 1.85, 64, 32},
    {"ascend910b3", 2201, 20, 40, 1.80, 64, 0},
    {"ascend910_9391", 2201, 24, 48, 1.85, 64, 32},
    {"ascend950pr_9599", 3510, 36, 72, 1.80, 128, 1600 / (36 * 1.80)},
    {"ascend950pr_9589", 3510, 32, 64, 1.65, 128, 31},
    {"ascend950pr_9579", 3510, 28, 56, 1.65, 128, 0},
    {"ascend950dt_9591", 3510, 36, 72, 1.80, 144, 4000 / (36 * 1.80)},
    {"ascend950dt_9581", 3510, 32, 64, 1.65, 144, 80},
};

constexpr const Sku* find_sku(std::string_view name) {
  for (const Sku& sku : kSkus) {
    if (sku.name == name) return &sku;
  }
  return nullptr;
}

constexpr const ArchLimits& limits_of(const Sku& sku) {
  return sku.arch == kArchLimits[0].arch ? kArchLimits[0] : kArchLimits[1];
}

}  // namespace v4npu::emulation
