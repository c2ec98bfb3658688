// What a launcher hands to a kernel, the same on every device: the Params of a call, and the tensors that must live
// until its kernel has run. The arguments are checked, and native.
#pragma once

#include <vector>

#include "ops/check.h"
#include "ops/tensors.h"
#include "v4npu/ops/act_quant.h"
#include "v4npu/ops/compressor.h"
#include "v4npu/ops/fp4_act_quant.h"
#include "v4npu/ops/gate.h"
#include "v4npu/ops/hadamard.h"
#include "v4npu/ops/hash_gate.h"
#include "v4npu/ops/hc_head.h"
#include "v4npu/ops/hc_post.h"
#include "v4npu/ops/hc_pre.h"
#include "v4npu/ops/indexer_query.h"
#include "v4npu/ops/qkv_prepare.h"
#include "v4npu/ops/rms_norm.h"
#include "v4npu/ops/rope.h"
#include "v4npu/ops/swiglu.h"

namespace v4npu {

struct RmsNormCall {
  Tensor x, out;
  OptTensor weight;
  RmsNormParams p{};

  RmsNormCall(const Tensor& x_, const OptTensor& weight_, double eps)
      : x(dense(x_)), out(uninitialised_like(x)), weight(dense(weight_)) {
    p.x = pointer<void>(x);
    p.weight = pointer<void>(weight);
    p.out = out.mutable_data_ptr();
    p.n = x.size(x.dim() - 1);
    p.num_rows = p.n > 0 ? x.numel() / p.n : 0;
    p.eps = static_cast<float>(eps);
    p.dtype = dtype_of(x);
    p.weight_dtype = weight ? dtype_of(*weight) : p.dtype;
  }
};

struct RopeCall {
  Tensor x, positions, freqs, out;
  RopeParams p{};

  RopeCall(const Tensor& x_, const Tensor& positions_, const Tensor& freqs_, bool inverse)
      : x(dense(x_)), positions(dense(positions_)), freqs(dense(freqs_)), out(uninitialised_like(x)) {
    p.x = pointer<void>(x);
    p.positions = pointer<int64_t>(positions);
    p.freqs = pointer<float>(freqs);
    p.out = out.mutable_data_ptr();
    p.num_tokens = x.size(0);
    p.head_dim = x.size(x.dim() - 1);
    p.num_heads = x.numel() > 0 ? x.numel() / (p.num_tokens * p.head_dim) : 0;
    p.rope_dim = 2 * freqs.size(0);
    p.inverse = inverse;
    p.dtype = dtype_of(x);
  }
};

struct HadamardCall {
  Tensor x, out;
  HadamardParams p{};

  explicit HadamardCall(const Tensor& x_) : x(dense(x_)), out(uninitialised_like(x)) {
    p.x = pointer<void>(x);
    p.out = out.mutable_data_ptr();
    p.n = x.size(x.dim() - 1);
    p.num_rows = x.numel() / p.n;
    p.dtype = dtype_of(x);
  }
};

// act_quant and fp4_act_quant: q holds `per_element` codes to an element.
template <class Params>
struct QuantiseCall {
  Tensor x, q, scale;
  Params p{};

  QuantiseCall(const Tensor& x_, int64_t block_size, ScalarType element, int64_t per_element) : x(dense(x_)) {
    std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
    p.n = sizes.back();
    sizes.back() = p.n / per_element;
    q = uninitialised(x, sizes, element);
    sizes.back() = ceil_div(p.n, block_size);
    scale = uninitialised(x, sizes, ScalarType::Float8_e8m0fnu);
    p.x = pointer<void>(x);
    p.q = writable<uint8_t>(q);
    p.scale = writable<uint8_t>(scale);
    p.num_rows = p.n > 0 ? x.numel() / p.n : 0;
    p.block_size = block_size;
    p.dtype = dtype_of(x);
  }
};
struct ActQuantCall : QuantiseCall<ActQuantParams> {
  ActQuantCall(const Tensor& x, int64_t block_size) : QuantiseCall(x, block_size, ScalarType::Float8_e4m3fn, 1) {}
};
struct Fp4ActQuantCall : QuantiseCall<Fp4ActQuantParams> {
  Fp4ActQuantCall(const Tensor& x, int64_t block_size) : QuantiseCall(x, block_size, ScalarType::Char, 2) {}
};

struct SwigluCall {
  Tensor gate, up, out;
  OptTensor weights;
  SwigluParams p{};

  SwigluCall(const Tensor& gate_, const Tensor& up_, const OptTensor& weights_, double limit)
      : gate(dense(gate_)), up(dense(up_)), out(uninitialised_like(gate)), weights(dense(weights_)) {
    p.gate = pointer<void>(gate);
    p.up = pointer<void>(up);
    p.weights = pointer<float>(weights);
    p.out = out.mutable_data_ptr();
    p.num_tokens = gate.size(0);
    p.intermediate_size = gate.size(1);
    p.limit = static_cast<float>(limit);
    p.dtype = dtype_of(gate);
  }
};

// What hc_pre and hc_head read; `mixes` columns of fn are computed for each token first.
template <class Params>
struct MixCall {
  Tensor streams, fn, scale, base, y, mix;
  Params p{};

  MixCall(const Tensor& streams_, const Tensor& fn_, const Tensor& scale_, const Tensor& base_, int64_t mixes,
          double norm_eps, double hc_eps)
      : streams(dense(streams_)), fn(dense(fn_)), scale(dense(scale_)), base(dense(base_)) {
    p.num_tokens = streams.size(0);
    p.hc_mult = streams.size(1);
    p.hidden_size = streams.size(2);
    y = uninitialised(streams, {p.num_tokens, p.hidden_size});
    mix = uninitialised(fn, {p.num_tokens, mixes});
    p.streams = pointer<void>(streams);
    p.fn = pointer<float>(fn);
    p.scale = pointer<float>(scale);
    p.base = pointer<float>(base);
    p.y = y.mutable_data_ptr();
    p.mix = writable<float>(mix);
    p.norm_eps = static_cast<float>(norm_eps);
    p.hc_eps = static_cast<float>(hc_eps);
    p.dtype = dtype_of(streams);
  }
};
struct HcHeadCall : MixCall<HcHeadParams> {
  HcHeadCall(const Tensor& streams, const Tensor& fn, const Tensor& scale, const Tensor& base, double norm_eps,
             double hc_eps)
      : MixCall(streams, fn, scale, base, streams.size(1), norm_eps, hc_eps) {}
};
struct HcPreCall : MixCall<HcPreParams> {
  Tensor post, comb;

  HcPreCall(const Tensor& streams, const Tensor& fn, const Tensor& scale, const Tensor& base, double norm_eps,
            double hc_eps, int64_t sinkhorn_iters)
      : MixCall(streams, fn, scale, base, (2 + streams.size(1)) * streams.size(1), norm_eps, hc_eps),
        post(uninitialised(fn, {p.num_tokens, p.hc_mult})),
        comb(uninitialised(fn, {p.num_tokens, p.hc_mult, p.hc_mult})) {
    p.post = writable<float>(post);
    p.comb = writable<float>(comb);
    p.sinkhorn_iters = static_cast<int32_t>(sinkhorn_iters);
  }
};

struct HcPostCall {
  Tensor x, streams, post, comb, out;
  HcPostParams p{};

  HcPostCall(const Tensor& x_, const Tensor& streams_, const Tensor& post_, const Tensor& comb_)
      : x(dense(x_)),
        streams(dense(streams_)),
        post(dense(post_)),
        comb(dense(comb_)),
        out(uninitialised_like(streams)) {
    p.x = pointer<void>(x);
    p.streams = pointer<void>(streams);
    p.post = pointer<float>(post);
    p.comb = pointer<float>(comb);
    p.out = out.mutable_data_ptr();
    p.num_tokens = streams.size(0);
    p.hc_mult = streams.size(1);
    p.hidden_size = streams.size(2);
    p.dtype = dtype_of(streams);
  }
};

// What gate and hash_gate share: everything but how experts are chosen.
template <class Params>
struct RoutingCall {
  Tensor x, weight, indices, weights;
  Params p{};

  RoutingCall(const Tensor& x_, const Tensor& weight_, int64_t topk, double route_scale)
      : x(dense(x_)),
        weight(dense(weight_)),
        indices(uninitialised(x, {x.size(0), topk}, ScalarType::Int)),
        weights(uninitialised(x, {x.size(0), topk}, ScalarType::Float)) {
    p.x = pointer<void>(x);
    p.weight = pointer<void>(weight);
    p.topk_indices = writable<int32_t>(indices);
    p.topk_weights = writable<float>(weights);
    p.num_tokens = x.size(0);
    p.hidden_size = x.size(1);
    p.num_experts = weight.size(0);
    p.topk = topk;
    p.route_scale = static_cast<float>(route_scale);
    p.dtype = dtype_of(x);
    p.weight_dtype = dtype_of(weight);
  }
};
struct GateCall : RoutingCall<GateParams> {
  OptTensor bias;
  Tensor scores;

  GateCall(const Tensor& x, const Tensor& weight, const OptTensor& bias_, int64_t topk, double route_scale)
      : RoutingCall(x, weight, topk, route_scale),
        bias(dense(bias_)),
        scores(uninitialised(x, {p.num_tokens, p.num_experts}, ScalarType::Float)) {
    p.bias = pointer<float>(bias);
    p.scores = writable<float>(scores);
  }
};
struct HashGateCall : RoutingCall<HashGateParams> {
  Tensor tid2eid, input_ids;

  HashGateCall(const Tensor& x, const Tensor& weight, const Tensor& tid2eid_, const Tensor& input_ids_,
               double route_scale)
      : RoutingCall(x, weight, tid2eid_.size(1), route_scale), tid2eid(dense(tid2eid_)), input_ids(dense(input_ids_)) {
    p.vocab_size = tid2eid.size(0);
    p.tid2eid = pointer<int64_t>(tid2eid);
    p.input_ids = pointer<int64_t>(input_ids);
  }
};

struct IndexerQueryCall {
  Tensor q, positions, freqs, out;
  IndexerQueryParams p{};

  IndexerQueryCall(const Tensor& q_, const Tensor& positions_, const Tensor& freqs_, bool official)
      : q(dense(q_)), positions(dense(positions_)), freqs(dense(freqs_)), out(uninitialised_like(q)) {
    p.q = pointer<void>(q);
    p.positions = pointer<int64_t>(positions);
    p.freqs = pointer<float>(freqs);
    p.out = out.mutable_data_ptr();
    p.num_tokens = q.size(0);
    p.num_heads = q.size(1);
    p.head_dim = q.size(2);
    p.rope_dim = 2 * freqs.size(0);
    p.official = official;
    p.dtype = dtype_of(q);
  }
};

// Whether rows of `type` go into the cache as they are or packed.
inline bool storable(const OptTensor& cache, ScalarType type) {
  return !cache || cache->scalar_type() == ScalarType::Byte || cache->scalar_type() == type;
}

// The fields of a Params that say where rows are stored; `slots` is contiguous.
template <class Params>
void set_cache(Params& p, const OptTensor& cache, const OptTensor& slots) {
  if (!cache) return;
  p.slot_mapping = pointer<int64_t>(slots);
  p.block_size = cache->size(1);
  p.block_stride = cache->stride(0) * static_cast<int64_t>(cache->element_size());
  p.packed = cache->scalar_type() == ScalarType::Byte;
}

struct QkvPrepareCall {
  Tensor q, kv, weight, positions, freqs, q_out, kv_out;
  OptTensor slots;
  QkvPrepareParams p{};

  QkvPrepareCall(const Tensor& q_, const Tensor& kv_, const Tensor& weight_, const Tensor& positions_,
                 const Tensor& freqs_, double eps, bool official, const OptTensor& cache, const OptTensor& slots_)
      : q(dense(q_)),
        kv(dense(kv_)),
        weight(dense(weight_)),
        positions(dense(positions_)),
        freqs(dense(freqs_)),
        q_out(uninitialised_like(q)),
        kv_out(uninitialised_like(kv)),
        slots(dense(slots_)) {
    p.q = pointer<void>(q);
    p.kv = pointer<void>(kv);
    p.kv_norm_weight = pointer<void>(weight);
    p.positions = pointer<int64_t>(positions);
    p.freqs = pointer<float>(freqs);
    p.q_out = q_out.mutable_data_ptr();
    p.kv_out = kv_out.mutable_data_ptr();
    if (cache) p.window_cache = cache->mutable_data_ptr();
    set_cache(p, cache, slots);
    p.num_tokens = q.size(0);
    p.num_heads = q.size(1);
    p.head_dim = q.size(2);
    p.rope_dim = 2 * freqs.size(0);
    p.eps = static_cast<float>(eps);
    p.official = official;
    p.dtype = dtype_of(q);
    p.weight_dtype = dtype_of(weight);
  }
  // What a kernel takes as it is.
  static bool takes(const Tensor& q, const Tensor& kv, const Tensor& weight, const OptTensor& cache) {
    return native(q) && kv.scalar_type() == q.scalar_type() && native(weight) && storable(cache, q.scalar_type());
  }
};

struct CompressorCall {
  Tensor kv, score, ape, weight, freqs, cu_seqlens_q, start_pos, entries;
  OptTensor state_slots, slots;
  CompressorParams p{};

  CompressorCall(const Tensor& kv_, const Tensor& score_, const Tensor& ape_, const Tensor& weight_,
                 const Tensor& freqs_, const Tensor& cu_seqlens_q_, const Tensor& start_pos_, const OptTensor& state,
                 const OptTensor& state_slots_, int64_t ratio, bool overlap, double eps, const std::string& quant,
                 int64_t num_entries, ScalarType out_dtype, const OptTensor& cache, const OptTensor& slots_)
      : kv(dense(kv_)),
        score(dense(score_)),
        ape(dense(ape_)),
        weight(dense(weight_)),
        freqs(dense(freqs_)),
        cu_seqlens_q(dense(cu_seqlens_q_)),
        start_pos(dense(start_pos_)),
        entries(uninitialised(kv, {num_entries, weight.size(0)}, out_dtype)),
        state_slots(dense(state_slots_)),
        slots(dense(slots_)) {
    p.kv = pointer<void>(kv);
    p.score = pointer<void>(score);
    p.ape = pointer<void>(ape);
    p.norm_weight = pointer<void>(weight);
    p.freqs = pointer<float>(freqs);
    p.cu_seqlens_q = pointer<int32_t>(cu_seqlens_q);
    p.start_pos = pointer<int32_t>(start_pos);
    if (state) {
      p.state = state->mutable_data_ptr();
      p.ring = state->size(2);
      p.state_stride = state->stride(0);
    }
    p.state_slots = pointer<int32_t>(state_slots);
    p.entries = entries.mutable_data_ptr();
    if (cache) p.cache = cache->mutable_data_ptr();
    set_cache(p, cache, slots);
    p.num_tokens = kv.size(0);
    p.num_seqs = start_pos.size(0);
    p.num_entries = num_entries;
    p.head_dim = weight.size(0);
    p.rope_dim = 2 * freqs.size(0);
    p.ratio = ratio;
    p.overlap = overlap;
    p.eps = static_cast<float>(eps);
    using Quant = CompressorParams::Quant;
    p.quant = quant == "none"           ? Quant::kNone
              : quant == "fp8"          ? Quant::kFp8
              : quant == "hadamard_fp8" ? Quant::kHadamardFp8
                                        : Quant::kHadamardFp4;
    p.dtype = dtype_of(out_dtype);
    p.weight_dtype = dtype_of(weight);
  }
  // What a kernel takes as it is.
  static bool takes(const Tensor& kv, const Tensor& score, const Tensor& ape, const Tensor& weight,
                    const OptTensor& state, ScalarType out_dtype, const OptTensor& cache) {
    return is_float32(kv) && is_float32(score) && is_float32(ape) && is_float32(state) && native(out_dtype) &&
           native(weight) && storable(cache, out_dtype);
  }
};

}  // namespace v4npu
