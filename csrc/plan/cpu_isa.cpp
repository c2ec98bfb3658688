#include "plan/cpu_isa.h"

#include <initializer_list>

namespace v4npu {
namespace {

std::string missing(const DeviceCaps& caps, std::initializer_list<const char*> needs) {
  std::string absent;
  for (const char* feature : needs) {
    if (!caps.has(feature)) absent += (absent.empty() ? "needs " : " ") + std::string(feature);
  }
  return absent.empty() ? absent : absent + ", not on this CPU";
}

// The features are those that backends/cpu/kernels.cmake lets the compiler use.
std::string refuses_avx512(const DeviceCaps& caps) {
  return missing(caps, {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni",
                        "avx512vbmi", "avx512bf16"});
}
std::string refuses_amx(const DeviceCaps& caps) {
  return missing(caps, {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni",
                        "avx512vbmi", "avx512bf16", "amx_tile", "amx_bf16"});
}
std::string refuses_avx2(const DeviceCaps& caps) { return missing(caps, {"avx2", "fma", "f16c"}); }
std::string refuses_neon(const DeviceCaps& caps) { return missing(caps, {"neon"}); }
std::string refuses_nothing(const DeviceCaps&) { return ""; }

}  // namespace

const std::vector<CpuIsa>& cpu_isas() {
  static const std::vector<CpuIsa> list = {
      {"amx", &refuses_amx},   {"avx512", &refuses_avx512},    {"avx2", &refuses_avx2},
      {"neon", &refuses_neon}, {"portable", &refuses_nothing},
  };
  return list;
}

std::vector<std::string> runnable_cpu_isas(const DeviceCaps& caps) {
  std::vector<std::string> names;
  for (const CpuIsa& isa : cpu_isas()) {
    if (isa.refuses(caps).empty()) names.emplace_back(isa.name);
  }
  return names;
}

}  // namespace v4npu
