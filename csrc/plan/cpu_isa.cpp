#include "plan/cpu_isa.h"

#include <initializer_list>

namespace v4npu {
namespace {

std::string absent(const DeviceCaps& caps, std::initializer_list<const char*> needs) {
  std::string names;
  for (const char* feature : needs) {
    if (!caps.has(feature)) names += std::string(" ") + feature;
  }
  return names;
}

// The features are those that backends/cpu/kernels.cmake lets the compiler use.
std::string absent_avx2(const DeviceCaps& caps) { return absent(caps, {"avx2", "fma", "f16c"}); }
std::string absent_avx512f(const DeviceCaps& caps) {
  return absent_avx2(caps) + absent(caps, {"avx512f", "avx512bw", "avx512dq", "avx512vl"});
}
std::string absent_avx512(const DeviceCaps& caps) {
  return absent_avx512f(caps) + absent(caps, {"avx512vnni", "avx512vbmi", "avx512bf16"});
}
std::string absent_amx(const DeviceCaps& caps) { return absent_avx512(caps) + absent(caps, {"amx_tile", "amx_bf16"}); }
std::string absent_neon(const DeviceCaps& caps) { return absent(caps, {"neon"}); }

template <std::string (*Absent)(const DeviceCaps&)>
std::string refuses(const DeviceCaps& caps) {
  const std::string names = Absent(caps);
  return names.empty() ? names : "needs" + names + ", not on this CPU";
}
std::string refuses_nothing(const DeviceCaps&) { return ""; }

}  // namespace

const std::vector<CpuIsa>& cpu_isas() {
  static const std::vector<CpuIsa> list = {
      {"amx", &refuses<absent_amx>},   {"avx512", &refuses<absent_avx512>}, {"avx512f", &refuses<absent_avx512f>},
      {"avx2", &refuses<absent_avx2>}, {"neon", &refuses<absent_neon>},     {"portable", &refuses_nothing},
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
