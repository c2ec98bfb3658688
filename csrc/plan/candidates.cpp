#include "plan/candidates.h"

#include "ops/schema.h"
#include "plan/cpu_isa.h"
#include "plan/gpu.h"

namespace v4npu {
namespace {

// A CPU kernel is one source for every instruction set, so an operator has all of them or none.
void add_cpu(std::vector<Candidate>& list, const char* op, const char* why) {
  for (const CpuIsa& isa : cpu_isas()) list.push_back({op, "cpu", isa.name, why, isa.refuses});
}

std::string refuses_ascendc(const DeviceCaps& caps) {
  if (!caps.available) return "no npu that it can be launched on: " + caps.reason;
  for (const char* known : {"ascend910b", "ascend910_93", "ascend950"}) {
    if (caps.name.rfind(known, 0) == 0) return "";
  }
  return "written for npus of the Ascend 910B, 910C and 950, not for " + caps.name;
}

// One text for every architecture (backends/ascend/README.md).
void add_ascendc(std::vector<Candidate>& list, const char* op, const char* why) {
  list.push_back({op, "npu", "ascendc", why, &refuses_ascendc});
}

}  // namespace

const std::vector<Candidate>& candidates() {
  static const std::vector<Candidate> list = [] {
    std::vector<Candidate> all;
    const char* const kFloat32Bfloat16 = "float32 and bfloat16; other dtypes run the reference";
    add_cpu(all, "rms_norm", kFloat32Bfloat16);
    add_cpu(all, "rope", kFloat32Bfloat16);
    add_cpu(all, "hadamard", kFloat32Bfloat16);
    add_cpu(all, "act_quant", kFloat32Bfloat16);
    add_cpu(all, "fp4_act_quant", kFloat32Bfloat16);
    add_cpu(all, "linear", kFloat32Bfloat16);
    add_cpu(all, "fp8_linear", kFloat32Bfloat16);
    add_cpu(all, "fp4_linear", kFloat32Bfloat16);
    add_cpu(all, "grouped_linear", kFloat32Bfloat16);
    add_cpu(all, "hc_pre", kFloat32Bfloat16);
    add_cpu(all, "hc_post", kFloat32Bfloat16);
    add_cpu(all, "hc_head", kFloat32Bfloat16);
    add_cpu(all, "qkv_prepare", kFloat32Bfloat16);
    add_cpu(all, "compressor", kFloat32Bfloat16);
    add_cpu(all, "indexer_query", kFloat32Bfloat16);
    add_cpu(all, "indexer_scores", kFloat32Bfloat16);
    add_cpu(all, "indexer_topk", kFloat32Bfloat16);
    add_cpu(all, "window_attention", kFloat32Bfloat16);
    add_cpu(all, "csa_attention", kFloat32Bfloat16);
    add_cpu(all, "hca_attention", kFloat32Bfloat16);
    add_cpu(all, "gate", kFloat32Bfloat16);
    add_cpu(all, "hash_gate", kFloat32Bfloat16);
    add_cpu(all, "swiglu", kFloat32Bfloat16);
    add_cpu(all, "moe_experts", kFloat32Bfloat16);
    for (const char* op :
         {"rms_norm",         "rope",          "hadamard",      "act_quant",      "fp4_act_quant", "hc_pre",
          "hc_post",          "hc_head",       "indexer_query", "gate",           "hash_gate",     "swiglu",
          "linear",           "fp8_linear",    "fp4_linear",    "grouped_linear", "moe_experts",   "indexer_scores",
          "window_attention", "csa_attention", "hca_attention"}) {
      all.push_back({op, "cuda", "sm80", kFloat32Bfloat16, &refuses_cuda});
    }
    const char* const kNeverRun = "never run on a device; dtypes and sizes beyond its limits run the reference";
    add_ascendc(all, "rms_norm", kNeverRun);
    add_ascendc(all, "rope", kNeverRun);
    add_ascendc(all, "act_quant", kNeverRun);
    add_ascendc(all, "fp4_act_quant", kNeverRun);
    add_ascendc(all, "gate", kNeverRun);
    return all;
  }();
  return list;
}

const std::vector<std::string>& op_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const std::string schema : schemas()) result.push_back(schema.substr(0, schema.find('(')));
    return result;
  }();
  return names;
}

}  // namespace v4npu
