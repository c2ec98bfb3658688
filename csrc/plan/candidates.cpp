#include "plan/candidates.h"

#include "ops/schema.h"

namespace v4npu {

const std::vector<Candidate>& candidates() {
  static const std::vector<Candidate> list = {
      // {"csa_attention", "cuda", "sm90", "Hopper kernel", &needs_sm90},
  };
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
