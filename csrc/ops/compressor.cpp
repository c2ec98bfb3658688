#include <algorithm>
#include <vector>

#include "check.h"
#include "checks.h"
#include "torch/csrc/stable/library.h"

namespace v4npu {
namespace {

// A state wherever an earlier row is pooled, every slot in it, and no two sequences that write to the same one.
void check_states(const Check& check, const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& state,
                  const OptTensor& state_slots, int64_t ratio, bool overlap) {
  if (!check.reads_values()) return;
  const Values<int32_t> starts(start_pos), ends(cu_seqlens_q);
  std::vector<int32_t> written;
  for (int64_t b = 0; b < starts.count; ++b) {
    if (state) {
      const int64_t slot = Values<int32_t>(*state_slots)[b];
      check.require(slot >= 0 && slot < state->size(0), "state_slots", "within the states", slot);
      if (ends[b + 1] > ends[b]) written.push_back(static_cast<int32_t>(slot));
    } else {
      check.require(starts[b] == 0 || (!overlap && starts[b] % ratio == 0), "state", "given when start_pos is not 0",
                    [&] { return "start_pos " + std::to_string(starts[b]); });
    }
  }
  std::sort(written.begin(), written.end());
  const auto twice = std::adjacent_find(written.begin(), written.end());
  if (twice != written.end())
    check.fail("state_slots", "another for each sequence with tokens", std::to_string(*twice) + " twice");
}

// As many as the sequences complete.
void check_num_entries(const Check& check, const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio,
                       int64_t num_entries) {
  if (!check.reads_values()) return;
  int64_t found = 0;
  check.each_sequence(cu_seqlens_q, start_pos,
                      [&](const Check::Span& s) { found += s.total / ratio - s.start / ratio; });
  if (found != num_entries) {
    check.fail("num_entries", std::to_string(found) + " for these sequences", std::to_string(num_entries));
  }
}

}  // namespace

void check_compressor(const Tensor& kv, const Tensor& score, const Tensor& ape, const Tensor& norm_weight,
                      const Tensor& freqs, const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& state,
                      const OptTensor& state_slots, int64_t ratio, bool overlap, double eps, const std::string& quant,
                      int64_t num_entries, ScalarType out_dtype, const OptTensor& cache,
                      const OptTensor& slot_mapping) {
  Check check("compressor");
  check.positive("ratio", ratio);
  const bool turned = quant == "hadamard_fp4" || quant == "hadamard_fp8";
  check.require(quant == "none" || quant == "fp8" || turned, "quant",
                "\"none\", \"fp8\", \"hadamard_fp4\" or \"hadamard_fp8\"", [&] { return "\"" + quant + "\""; });
  const int64_t coff = overlap ? 2 : 1;
  Axis num_tokens("num_tokens"), num_seqs("num_seqs"), r("ratio", ratio), d("head_dim");
  check.tensor("norm_weight", norm_weight, kFloating, d);
  Axis cols(overlap ? "2*head_dim" : "head_dim", coff * *d), states("num_states"), ring("ring");
  check.tensor("kv", kv, kFloat32, num_tokens, cols);
  check.tensor("score", score, kFloat32, num_tokens, cols);
  check.tensor("ape", ape, kFloat32, r, cols);
  check.rope("norm_weight", norm_weight, freqs);
  check.sequences(cu_seqlens_q, start_pos, num_seqs, num_tokens);
  check.require(state.has_value() == state_slots.has_value(), "state_slots",
                state ? "given with state" : "None without state", state_slots);
  if (state) {
    check.tensor("state", *state, kFloat32, states, Axis("2", 2), ring, cols);
    check.require(*ring >= coff * ratio, "state", "a ring of at least ratio rows, 2*ratio with overlap", *ring);
    check.require(state->stride(3) == 1 && state->stride(2) == *cols && state->stride(1) == *ring * *cols, "state",
                  "contiguous within a state", *state);
    check.written("state", *state);
    check.tensor("state_slots", *state_slots, kInt32, num_seqs);
  }
  check.require(eps >= 0, "eps", "at least 0", eps);
  check.require(!turned || is_power_of_two(*d), "norm_weight",
                "[head_dim] with head_dim a power of two for the Hadamard transform", norm_weight);
  check.require(num_entries >= 0 && num_entries <= *num_tokens, "num_entries", "between 0 and num_tokens", num_entries);
  check.dtype("out_dtype", out_dtype, kFloating);
  check_states(check, cu_seqlens_q, start_pos, state, state_slots, ratio, overlap);
  check_num_entries(check, cu_seqlens_q, start_pos, ratio, num_entries);
  check.require(cache.has_value() == slot_mapping.has_value(), "slot_mapping",
                cache ? "given with cache" : "None without cache", slot_mapping);
  if (!cache) return;
  const bool bytes = cache->scalar_type() == ScalarType::Byte;
  check.require(!bytes || (out_dtype == ScalarType::BFloat16 && quant != "none"), "cache",
                "floating point: packed rows are for quantised bfloat16 entries", *cache);
  const RowFormat packed = quant == "fp8"            ? fp8_kv_row(*d, 2 * freqs.size(0))
                           : quant == "hadamard_fp8" ? fp8_key_row(*d)
                                                     : fp4_key_row(*d);
  check.pages("cache", *cache, d, packed, out_dtype);
  check.written("cache", *cache);
  check.tensor("slot_mapping", *slot_mapping, kInt64, Axis("num_entries", num_entries));
  check.slots("slot_mapping", *slot_mapping, "cache", *cache);
}

}  // namespace v4npu

STABLE_TORCH_LIBRARY_IMPL(v4npu_check, CompositeExplicitAutograd, m) {
  m.impl("compressor", TORCH_BOX(&v4npu::check_compressor));
}
