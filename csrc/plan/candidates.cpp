#include "plan/candidates.h"

#include "ops/schema.h"
#include "plan/ascend.h"
#include "plan/cpu_isa.h"
#include "plan/gpu.h"
#include "plan/vendor.h"

namespace v4npu {
namespace {

// Operators with a kernel of ours on every device. One that has them on some devices only is added apart, in
// candidates().
constexpr const char* kEverywhere[] = {
    "rms_norm",      "rope",          "hadamard",       "act_quant",      "fp4_act_quant", "linear",
    "fp8_linear",    "fp4_linear",    "grouped_linear", "hc_pre",         "hc_post",       "hc_head",
    "qkv_prepare",   "compressor",    "indexer_query",  "indexer_scores", "indexer_topk",  "window_attention",
    "csa_attention", "hca_attention", "gate",           "hash_gate",      "swiglu",        "moe_experts"};

// A CPU kernel is one source for every instruction set, so an operator has all of them or none.
void add_cpu(std::vector<Candidate>& list, const char* op, const char* why) {
  for (const CpuIsa& isa : cpu_isas()) list.push_back({op, "cpu", isa.name, why, isa.refuses});
}

void add_cuda(std::vector<Candidate>& list, const char* op, const char* why) {
  list.push_back({op, "cuda", "sm80", why, &refuses_cuda});
}

// One text for every architecture (backends/ascend/README.md).
void add_ascendc(std::vector<Candidate>& list, const char* op, const char* why) {
  list.push_back({op, "npu", "ascendc", why, &refuses_ascendc});
}

// device.py counts an operator that is registered with the schema of the table among an NPU's features.
void add_vendor(std::vector<Candidate>& list) {
  for (const VendorOperator& o : vendor_operators()) {
    const auto refuses = [&o](const DeviceCaps& caps) { return caps.has(o.name) ? "" : "torch has no such operator"; };
    if (o.used) list.push_back({o.op, "npu", o.name, o.why, refuses});
  }
}

}  // namespace

const std::vector<Candidate>& candidates() {
  static const std::vector<Candidate> list = [] {
    std::vector<Candidate> all;
    for (const char* op : kEverywhere) {
      add_cpu(all, op, "float32 and bfloat16; other dtypes run the reference");
      add_cuda(all, op, "float32 and bfloat16, never run on a device; what is beyond its limits runs the reference");
      add_ascendc(all, op, "never run on a device; what is beyond its limits runs the reference");
    }
    add_vendor(all);
    return all;
  }();
  return list;
}

// The name of an op is what stands before the bracket of its schema.
const std::vector<std::string>& op_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const std::string schema : schemas()) result.push_back(schema.substr(0, schema.find('(')));
    return result;
  }();
  return names;
}

}  // namespace v4npu
