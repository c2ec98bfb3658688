#include "v4npu/plan.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "plan/candidates.h"
#include "plan/vendor.h"

namespace v4npu {
namespace {

bool declared(const std::string& op) {
  const auto& ops = op_names();
  return std::find(ops.begin(), ops.end(), op) != ops.end();
}

}  // namespace

Plan plan(const std::string& op, const DeviceCaps& caps) {
  if (!declared(op)) throw std::invalid_argument("v4npu.plan: op must be a declared operator, got \"" + op + "\"");
  std::string refusals;
  for (const Candidate& candidate : candidates()) {
    if (candidate.op != op || candidate.device != caps.kind) continue;
    std::string refusal = candidate.refuses(caps);
    if (refusal.empty() && !caps.only.empty() && caps.only != candidate.variant) refusal = caps.only + " is asked for";
    if (refusal.empty()) return {candidate.variant, refusals.empty() ? candidate.why : refusals + candidate.why};
    refusals += std::string(candidate.variant) + ": " + refusal + "; ";
  }
  if (refusals.empty())
    refusals = "no native " + caps.kind + " kernel is built in";
  else
    refusals.resize(refusals.size() - 2);
  return {"reference", refusals + unused_vendor_operators(op, caps)};
}

}  // namespace v4npu
