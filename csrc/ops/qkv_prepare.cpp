#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_qkv_prepare(const Tensor& q, const Tensor& kv, const Tensor& kv_norm_weight, const Tensor& positions,
                       const Tensor& freqs, double eps, bool official, const OptTensor& window_cache,
                       const OptTensor& slot_mapping) {
  Check check("qkv_prepare");
  Axis num_tokens("num_tokens"), num_heads("num_heads"), head_dim("head_dim");
  check.tensor("q", q, kFloating, num_tokens, num_heads, head_dim);
  check.tensor("kv", kv, kFloating, num_tokens, head_dim);
  check.tensor("kv_norm_weight", kv_norm_weight, kFloating, head_dim);
  check.tensor("positions", positions, kInt64, num_tokens);
  check.rope("q", q, freqs);
  check.require(eps >= 0, "eps", "at least 0", eps);
  check.require(window_cache.has_value() == slot_mapping.has_value(), "slot_mapping",
                window_cache ? "given with window_cache" : "None without window_cache", slot_mapping);
  if (window_cache) {
    check.pages("window_cache", *window_cache, head_dim, fp8_kv_row(*head_dim, 2 * freqs.size(0)), q.scalar_type());
    check.require(official || window_cache->scalar_type() != ScalarType::Byte, "window_cache",
                  "floating point: exact numerics round no row", *window_cache);
    check.written("window_cache", *window_cache);
  }
  check.tensor("slot_mapping", slot_mapping, kInt64, num_tokens);
  if (window_cache) check.slots("slot_mapping", *slot_mapping, "window_cache", *window_cache);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("qkv_prepare", TORCH_BOX(&v4npu::check_qkv_prepare));
}
