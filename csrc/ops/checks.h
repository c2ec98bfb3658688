// check_<op>(): shapes, dtypes, devices and parameter ranges of every operator, each defined in ops/<op>.cpp and
// called by every launcher before anything is launched. Arguments are those of schema.cpp, in its order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "torch/csrc/stable/tensor.h"

namespace v4npu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptTensor = std::optional<Tensor>;

// clang-format off
void check_rms_norm(const Tensor& x, const OptTensor& weight, double eps);
void check_rope(const Tensor& x, const Tensor& positions, const Tensor& freqs, bool inverse);
void check_hadamard(const Tensor& x);
void check_act_quant(const Tensor& x, int64_t block_size);
void check_fp4_act_quant(const Tensor& x, int64_t block_size);
void check_linear(const Tensor& x, const Tensor& weight, ScalarType out_dtype);
void check_fp8_linear(const Tensor& x, const OptTensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                      ScalarType out_dtype);
void check_fp4_linear(const Tensor& x, const OptTensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                      ScalarType out_dtype);
void check_grouped_linear(const Tensor& x, const Tensor& weight, const OptTensor& weight_scale);
void check_hc_pre(const Tensor& streams, const Tensor& fn, const Tensor& scale, const Tensor& base, double norm_eps,
                  double hc_eps, int64_t sinkhorn_iters);
void check_hc_post(const Tensor& x, const Tensor& streams, const Tensor& post, const Tensor& comb);
void check_hc_head(const Tensor& streams, const Tensor& fn, const Tensor& scale, const Tensor& base, double norm_eps,
                   double hc_eps);
void check_qkv_prepare(const Tensor& q, const Tensor& kv, const Tensor& kv_norm_weight, const Tensor& positions,
                       const Tensor& freqs, double eps, bool official, const OptTensor& window_cache,
                       const OptTensor& slot_mapping);
void check_compressor(const Tensor& kv, const Tensor& score, const Tensor& ape, const Tensor& norm_weight,
                      const Tensor& freqs, const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& state,
                      const OptTensor& state_slots, int64_t ratio, bool overlap, double eps, const std::string& quant,
                      int64_t num_entries, ScalarType out_dtype, const OptTensor& cache,
                      const OptTensor& slot_mapping);
void check_indexer_query(const Tensor& q, const Tensor& positions, const Tensor& freqs, bool official);
void check_indexer_scores(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
                          const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, bool official);
void check_indexer_topk(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
                        const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, int64_t topk,
                        bool official);
void check_window_attention(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                            const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& attn_sink,
                            double softmax_scale, int64_t window, int64_t rope_dim, bool official,
                            const OptTensor& positions, const OptTensor& freqs);
void check_csa_attention(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                         const Tensor& compressed_kv, const Tensor& block_table, const Tensor& topk_indices,
                         const Tensor& cu_seqlens_q, const Tensor& start_pos, const OptTensor& attn_sink,
                         double softmax_scale, int64_t window, int64_t rope_dim, bool official,
                         const OptTensor& positions, const OptTensor& freqs);
void check_hca_attention(const Tensor& q, const Tensor& window_kv, const Tensor& window_table,
                         const Tensor& compressed_kv, const Tensor& block_table, const Tensor& cu_seqlens_q,
                         const Tensor& start_pos, const OptTensor& attn_sink, double softmax_scale, int64_t window,
                         int64_t ratio, int64_t rope_dim, bool official,
                         const OptTensor& positions, const OptTensor& freqs);
void check_gate(const Tensor& x, const Tensor& weight, const OptTensor& bias, int64_t topk, double route_scale);
void check_hash_gate(const Tensor& x, const Tensor& weight, const Tensor& tid2eid, const Tensor& input_ids,
                     double route_scale);
void check_swiglu(const Tensor& gate, const Tensor& up, const OptTensor& weights, double limit);
void check_moe_experts(const Tensor& x, const Tensor& topk_indices, const Tensor& topk_weights, const Tensor& w1,
                       const OptTensor& w1_scale, const Tensor& w3, const OptTensor& w3_scale, const Tensor& w2,
                       const OptTensor& w2_scale, double swiglu_limit, bool official, const OptTensor& shared);
// clang-format on

}  // namespace v4npu
