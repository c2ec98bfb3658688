#include "v4npu/ops/swiglu.h"

#include "../launch.h"

namespace v4npu::ascend {

Tensor launch_swiglu(const Tensor& gate_, const Tensor& up_, const OptTensor& weights_, double limit) {
  check_swiglu(gate_, up_, weights_, limit);
  const bool known =
      !suffix(gate_).empty() && suffix(gate_) == suffix(up_) && (!weights_ || suffix(*weights_) == "fp32");
  if (!ready() || !known) return call_reference<Tensor>("swiglu", gate_, up_, weights_, limit);

  const Tensor gate = dense(gate_), up = dense(up_);
  const OptTensor weights = dense(weights_);
  Tensor out = uninitialised_like(gate);
  const int64_t num_tokens = gate.size(0), n = gate.size(1);
  launch("swiglu_" + suffix(gate), n > 0 ? num_tokens : 0, gate, pointer(gate), pointer(up), pointer(weights),
         pointer(out), num_tokens, n, static_cast<float>(limit));
  return out;
}

}  // namespace v4npu::ascend

STABLE_TORCH_LIBRARY_IMPL(v4npu, PrivateUse1, m) { m.impl("swiglu", TORCH_BOX(&v4npu::ascend::launch_swiglu)); }
