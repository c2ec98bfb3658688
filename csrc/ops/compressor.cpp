#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {

void check_compressor(const Tensor& kv, const Tensor& score, const Tensor& ape, const Tensor& norm_weight,
                      const Tensor& freqs, const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& state,
                      int64_t ratio, bool overlap, double eps, const std::string& quant, int64_t num_entries,
                      ScalarType out_dtype) {
  Check check("compressor");
  check.positive("ratio", ratio);
  check.require(quant == "none" || quant == "fp8" || quant == "hadamard_fp4", "quant",
                "\"none\", \"fp8\" or \"hadamard_fp4\"", "\"" + quant + "\"");
  const int64_t coff = overlap ? 2 : 1;
  Axis num_tokens("num_tokens"), num_seqs("num_seqs"), r("ratio", ratio), d("head_dim");
  check.tensor("norm_weight", norm_weight, kFloating, d);
  Axis cols(overlap ? "2*head_dim" : "head_dim", coff * *d), rows(overlap ? "2*ratio" : "ratio", coff * ratio);
  check.tensor("kv", kv, kFloat32, num_tokens, cols);
  check.tensor("score", score, kFloat32, num_tokens, cols);
  check.tensor("ape", ape, kFloat32, r, cols);
  check.rope("norm_weight", norm_weight, freqs);
  check.sequences(cu_seqlens_q, start_pos, num_seqs);
  check.tensor("state", state, kFloat32, num_seqs, Axis("2", 2), rows, cols);
  check.require(eps >= 0, "eps", "at least 0", eps);
  check.require(quant != "hadamard_fp4" || is_power_of_two(*d), "norm_weight",
                "[head_dim] with head_dim a power of two for \"hadamard_fp4\"", describe(norm_weight));
  check.require(num_entries >= 0 && num_entries <= *num_tokens, "num_entries", "between 0 and num_tokens", num_entries);
  check.dtype("out_dtype", out_dtype, kFloating);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("compressor", TORCH_BOX(&v4npu::check_compressor));
}
