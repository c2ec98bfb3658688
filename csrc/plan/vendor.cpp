#include "plan/vendor.h"

namespace v4npu {
namespace {

// cann_ops_transformer, cann-recipes-infer (custom), vllm-ascend (_C_ascend) and sgl-kernel-npu (npu).
constexpr const char* kOnNoIndex = "its package is on no index, so nothing here could hold it to the contract";

}  // namespace

// clang-format off
const std::vector<VendorOperator>& vendor_operators() {
  static const std::vector<VendorOperator> list = {
    {"rms_norm", "npu::npu_rms_norm",
     "(Tensor input, Tensor gamma, float epsilon=9.9999999999999995e-07) -> (Tensor, Tensor)",
     true, "float32 with a weight; where it rounds results of 16 bits is not documented"},
    {"rope", "npu::npu_rotary_mul",
     "(Tensor input, Tensor r1, Tensor r2, str rotary_mode=\"half\", Tensor? rotate=None) -> Tensor",
     false, "it takes cosines and sines rounded to the dtype of x"},
    {"act_quant", "npu::npu_dynamic_mx_quant",
     "(Tensor input, *, int axis=-1, str round_mode=\"rint\", int dst_type=296, int block_size=32, int? scale_alg=0,"
     " float dst_type_max=0., float max_low_bound=0.) -> (Tensor, Tensor)",
     false, "for the 950 alone, and that its scale can have a floor of 1e-4 is not documented"},
    {"fp4_act_quant", "npu::npu_dynamic_mx_quant",
     "(Tensor input, *, int axis=-1, str round_mode=\"rint\", int dst_type=296, int block_size=32, int? scale_alg=0,"
     " float dst_type_max=0., float max_low_bound=0.) -> (Tensor, Tensor)",
     false, "for the 950 alone, and the exponent of its scale is rounded down, not up"},
    {"hc_pre", "npu::npu_mhc_pre",
     "(Tensor x, Tensor phi, Tensor alpha, Tensor bias, *, Tensor? gamma=None, float norm_eps=9.9999999999999995e-07,"
     " float hc_eps=9.9999999999999995e-07, int out_flag=0, int inner_precise=0)"
     " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
     false, "for the 950 and 16 bits alone, with the mean square before the product, not after it"},
    {"hc_post", "npu::npu_mhc_post", "(Tensor x, Tensor? h_res, Tensor h_out, Tensor h_post) -> Tensor",
     false, "for the 950 and 16 bits alone, and where it rounds is not documented"},
    {"gate", "npu::npu_moe_gating_top_k",
     "(Tensor x, int k, *, Tensor? bias=None, Tensor? input_ids=None, Tensor? tid2eid=None, int k_group=1,"
     " int group_count=1, int group_select_mode=0, int renorm=0, int norm_type=0, bool out_flag=False,"
     " float routed_scaling_factor=1., float eps=9.9999999999999995e-21) -> (Tensor, Tensor, Tensor)",
     false, "softmax and sigmoid are documented, the root of softplus is not"},
    {"hash_gate", "npu::npu_moe_gating_top_k",
     "(Tensor x, int k, *, Tensor? bias=None, Tensor? input_ids=None, Tensor? tid2eid=None, int k_group=1,"
     " int group_count=1, int group_select_mode=0, int renorm=0, int norm_type=0, bool out_flag=False,"
     " float routed_scaling_factor=1., float eps=9.9999999999999995e-21) -> (Tensor, Tensor, Tensor)",
     false, "softmax and sigmoid are documented, the root of softplus is not"},
    {"swiglu", "npu::npu_clipped_swiglu",
     "(Tensor x, *, Tensor? group_index=None, int dim=-1, float alpha=1.702, float limit=7., float bias=1.,"
     " bool interleaved=True) -> Tensor",
     false, "it takes gate and up as one tensor and no weights; where it rounds results of 16 bits is not documented"},
    {"indexer_topk", "npu::npu_quant_lightning_indexer",
     "(Tensor query, Tensor key, Tensor weights, Tensor query_dequant_scale, Tensor key_dequant_scale,"
     " int query_quant_mode, int key_quant_mode, *, Tensor? actual_seq_lengths_query=None,"
     " Tensor? actual_seq_lengths_key=None, Tensor? block_table=None, str layout_query=\"BSND\","
     " str layout_key=\"BSND\", int sparse_count=2048, int sparse_mode=3, int pre_tokens=9223372036854775807,"
     " int next_tokens=9223372036854775807, int? query_dtype=None, int? key_dtype=None) -> Tensor",
     false, "it sees every key up to the query, not one for each ratio tokens, and documents no order among equal scores"},
    {"moe_experts", "npu::npu_grouped_matmul",
     "(Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None, Tensor[]? scale=None, Tensor[]? offset=None,"
     " Tensor[]? antiquant_scale=None, Tensor[]? antiquant_offset=None, Tensor[]? per_token_scale=None,"
     " Tensor? group_list=None, Tensor[]? activation_input=None, Tensor[]? activation_quant_scale=None,"
     " Tensor[]? activation_quant_offset=None, int? split_item=0, int? group_type=None, int? group_list_type=0,"
     " int? act_type=0, int[]? tuning_config=None, int? output_dtype=None, int? x_dtype=None, int? weight_dtype=None,"
     " int? scale_dtype=None, int? per_token_scale_dtype=None) -> Tensor[]",
     false, "a product of the several that the operator is, for weights scaled otherwise than in blocks of 128 x 128"},
    {"hc_pre", "custom::npu_hc_pre", "", false, kOnNoIndex},
    {"hc_pre", "_C_ascend::npu_hc_pre_v2", "", false, kOnNoIndex},
    {"hc_post", "custom::npu_hc_post", "", false, kOnNoIndex},
    {"hc_post", "_C_ascend::npu_hc_post", "", false, kOnNoIndex},
    {"compressor", "custom::compressor", "", false, kOnNoIndex},
    {"compressor", "_C_ascend::compressor", "", false, kOnNoIndex},
    {"compressor", "npu::compressor", "", false, kOnNoIndex},
    {"indexer_topk", "custom::npu_quant_lightning_indexer", "", false, kOnNoIndex},
    {"indexer_topk", "_C_ascend::npu_vllm_quant_lightning_indexer", "", false, kOnNoIndex},
    {"window_attention", "cann_ops_transformer::sparse_flash_mla", "", false, kOnNoIndex},
    {"window_attention", "custom::npu_sparse_attn_sharedkv", "", false, kOnNoIndex},
    {"window_attention", "_C_ascend::npu_sparse_attn_sharedkv", "", false, kOnNoIndex},
    {"window_attention", "npu::sparse_attn_sharedkv", "", false, kOnNoIndex},
    {"csa_attention", "cann_ops_transformer::sparse_flash_mla", "", false, kOnNoIndex},
    {"csa_attention", "custom::npu_sparse_attn_sharedkv", "", false, kOnNoIndex},
    {"csa_attention", "_C_ascend::npu_sparse_attn_sharedkv", "", false, kOnNoIndex},
    {"csa_attention", "npu::sparse_attn_sharedkv", "", false, kOnNoIndex},
    {"hca_attention", "cann_ops_transformer::sparse_flash_mla", "", false, kOnNoIndex},
    {"hca_attention", "custom::npu_sparse_attn_sharedkv", "", false, kOnNoIndex},
    {"hca_attention", "_C_ascend::npu_sparse_attn_sharedkv", "", false, kOnNoIndex},
    {"hca_attention", "npu::sparse_attn_sharedkv", "", false, kOnNoIndex},
  };
  return list;
}
// clang-format on

std::string unused_vendor_operators(const std::string& op, const DeviceCaps& caps) {
  std::string text;
  for (const VendorOperator& o : vendor_operators())
    if (op == o.op && !o.used && caps.has(o.name)) text += std::string("; ") + o.name + " is not used: " + o.why;
  return text;
}

}  // namespace v4npu
