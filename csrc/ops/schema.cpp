// The operators of v4npu, all on one screen. Contracts: csrc/include/v4npu/ops/<op>.h.
//
// T = packed tokens of all sequences, B = sequences. cu_seqlens_q int32 [B+1] holds the token offsets of each
// sequence in this call, start_pos int32 [B] the tokens each sequence already had before it.
#include "schema.h"

#include <string>

#include "torch/csrc/stable/library.h"

namespace v4npu {

// clang-format off
const std::vector<const char*>& schemas() {
  static const std::vector<const char*> list = {
    "rms_norm(Tensor x, Tensor? weight, float eps) -> Tensor",
    "rope(Tensor x, Tensor positions, Tensor freqs, bool inverse=False) -> Tensor",
    "hadamard(Tensor x) -> Tensor",
    "act_quant(Tensor x, int block_size=128) -> (Tensor, Tensor)",
    "fp4_act_quant(Tensor x, int block_size=32) -> (Tensor, Tensor)",
    "linear(Tensor x, Tensor weight, ScalarType out_dtype) -> Tensor",
    "fp8_linear(Tensor x, Tensor? x_scale, Tensor weight, Tensor weight_scale, ScalarType out_dtype) -> Tensor",
    "fp4_linear(Tensor x, Tensor? x_scale, Tensor weight, Tensor weight_scale, ScalarType out_dtype) -> Tensor",
    "grouped_linear(Tensor x, Tensor weight, Tensor? weight_scale) -> Tensor",
    "hc_pre(Tensor streams, Tensor fn, Tensor scale, Tensor base, float norm_eps, float hc_eps, int sinkhorn_iters)"
        " -> (Tensor, Tensor, Tensor)",
    "hc_post(Tensor x, Tensor streams, Tensor post, Tensor comb) -> Tensor",
    "hc_head(Tensor streams, Tensor fn, Tensor scale, Tensor base, float norm_eps, float hc_eps) -> Tensor",
    "qkv_prepare(Tensor q, Tensor kv, Tensor kv_norm_weight, Tensor positions, Tensor freqs, float eps, bool official,"
        " Tensor(a!)? window_cache=None, Tensor? slot_mapping=None) -> (Tensor, Tensor)",
    "compressor(Tensor kv, Tensor score, Tensor ape, Tensor norm_weight, Tensor freqs, Tensor cu_seqlens_q,"
        " Tensor start_pos, Tensor(a!)? state, Tensor? state_slots, int ratio, bool overlap, float eps, str quant,"
        " SymInt num_entries, ScalarType out_dtype, Tensor(b!)? cache=None, Tensor? slot_mapping=None) -> Tensor",
    "indexer_query(Tensor q, Tensor positions, Tensor freqs, bool official) -> Tensor",
    "indexer_scores(Tensor q, Tensor weights, Tensor keys, Tensor block_table, Tensor cu_seqlens_q, Tensor start_pos,"
        " int ratio, bool official) -> Tensor",
    "indexer_topk(Tensor q, Tensor weights, Tensor keys, Tensor block_table, Tensor cu_seqlens_q, Tensor start_pos,"
        " int ratio, int topk, bool official) -> Tensor",
    "window_attention(Tensor q, Tensor window_kv, Tensor window_table, Tensor cu_seqlens_q, Tensor start_pos,"
        " Tensor? attn_sink, float softmax_scale, int window, int rope_dim, bool official,"
        " Tensor? positions=None, Tensor? freqs=None) -> Tensor",
    "csa_attention(Tensor q, Tensor window_kv, Tensor window_table, Tensor compressed_kv, Tensor block_table,"
        " Tensor topk_indices, Tensor cu_seqlens_q, Tensor start_pos, Tensor? attn_sink, float softmax_scale,"
        " int window, int rope_dim, bool official,"
        " Tensor? positions=None, Tensor? freqs=None) -> Tensor",
    "hca_attention(Tensor q, Tensor window_kv, Tensor window_table, Tensor compressed_kv, Tensor block_table,"
        " Tensor cu_seqlens_q, Tensor start_pos, Tensor? attn_sink, float softmax_scale, int window, int ratio,"
        " int rope_dim, bool official,"
        " Tensor? positions=None, Tensor? freqs=None) -> Tensor",
    "gate(Tensor x, Tensor weight, Tensor? bias, int topk, float route_scale) -> (Tensor, Tensor)",
    "hash_gate(Tensor x, Tensor weight, Tensor tid2eid, Tensor input_ids, float route_scale) -> (Tensor, Tensor)",
    "swiglu(Tensor gate, Tensor up, Tensor? weights, float limit) -> Tensor",
    "moe_experts(Tensor x, Tensor topk_indices, Tensor topk_weights, Tensor w1, Tensor? w1_scale, Tensor w3,"
        " Tensor? w3_scale, Tensor w2, Tensor? w2_scale, float swiglu_limit, bool official, Tensor? shared=None)"
        " -> Tensor",
  };
  return list;
}
// clang-format on

namespace {

// v4npu_check::<op> takes the arguments of v4npu::<op>, writes none of them and returns nothing.
std::string check_schema(std::string schema) {
  schema.erase(schema.rfind(" -> "));
  for (size_t at; (at = schema.find("!)")) != std::string::npos;) schema.erase(at - 2, 4);  // (a!)
  return schema + " -> ()";
}

}  // namespace
}  // namespace v4npu

STABLE_TORCH_LIBRARY(v4npu, m) {
  for (const char* schema : v4npu::schemas()) m.def(schema);
}

STABLE_TORCH_LIBRARY(v4npu_check, m) {
  for (const char* schema : v4npu::schemas()) m.def(v4npu::check_schema(schema).c_str());
}
