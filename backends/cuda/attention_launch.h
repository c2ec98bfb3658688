// What the launchers of the three attentions share.
#pragma once

#include "launch.h"
#include "plan/gpu.h"

namespace v4npu::cuda {

// The tensors of a call, contiguous where they must be; a launcher adds its entries and calls run().
struct AttentionCall {
  Tensor q, window_kv, window_table, cu_seqlens_q, start_pos, out;
  OptTensor sink, positions, freqs;
  bool packed, official;
  Attention p{};

  // Rows are read 16 values at a time, so a packed row must change its format between two such runs. A pair that turns
  // must be a thread's.
  static bool takes(const Tensor& q, const Tensor& kv, const OptTensor& sink, int64_t rope_dim,
                    const OptTensor& freqs) {
    const bool rows = kv.scalar_type() == ScalarType::Byte ? q.size(2) % 16 == 0 && rope_dim % 16 == 0
                                                           : kv.scalar_type() == q.scalar_type();
    return runs(q) && rows && is_even(kv) && is_float32(sink) && q.size(2) <= kMaxHeadDim &&
           (!freqs || q.size(2) % 2 == 0);
  }

  AttentionCall(const Tensor& q_, const Tensor& window_kv_, const Tensor& window_table_, const Tensor& cu_seqlens_q_,
                const Tensor& start_pos_, const OptTensor& sink_, double scale, int64_t window, int64_t rope_dim,
                bool official_, const OptTensor& positions_, const OptTensor& freqs_)
      : q(dense(q_)),
        window_kv(window_kv_),
        window_table(dense(window_table_)),
        cu_seqlens_q(dense(cu_seqlens_q_)),
        start_pos(dense(start_pos_)),
        out(uninitialised_like(q)),
        sink(dense(sink_)),
        positions(dense(positions_)),
        freqs(dense(freqs_)),
        packed(window_kv.scalar_type() == ScalarType::Byte),
        official(official_) {
    p.q = pointer<void>(q);
    p.out = out.mutable_data_ptr();
    p.attn_sink = pointer<float>(sink);
    p.window_kv = pointer<void>(window_kv);
    p.window_table = pointer<int32_t>(window_table);
    p.cu_seqlens_q = pointer<int32_t>(cu_seqlens_q);
    p.start_pos = pointer<int32_t>(start_pos);
    p.num_tokens = q.size(0);
    p.num_heads = q.size(1);
    p.head_dim = q.size(2);
    p.num_seqs = start_pos.size(0);
    p.rope_dim = rope_dim;
    p.window = window;
    p.scale = static_cast<float>(scale);
    p.ratio = 1;
    p.window_block = window_kv.size(1);
    p.window_stride = page_bytes(window_kv);
    p.max_window_blocks = window_table.size(1);
    p.positions = pointer<int64_t>(positions);
    p.freqs = pointer<float>(freqs);
    p.turned_dim = freqs ? 2 * freqs->size(0) : 0;
  }
  void entries(const Tensor& compressed_kv, const Tensor& block_table) {
    p.compressed_kv = pointer<void>(compressed_kv);
    p.block_table = pointer<int32_t>(block_table);
    p.block_size = compressed_kv.size(1);
    p.block_stride = page_bytes(compressed_kv);
    p.max_blocks = block_table.size(1);
  }
  Tensor run(const char* op) {
    if (is_float32(q)) {
      cuda::run(op, std::string(op) + "_fp32", p, {p.num_seqs > 0 ? p.num_tokens : 0, ceil_div(p.num_heads, kRowWarps)},
                kRowThreads, q);
      return out;
    }
    const std::string kernel = std::string(op) + (packed ? "_packed" : "_plain") + (official ? "_official" : "");
    const int64_t tokens = p.num_seqs > 0 && p.head_dim > 0 ? p.num_tokens : 0,
                  tiles = ceil_div(p.num_heads, kHeadTile);
    const int64_t entries = p.topk_indices != nullptr ? p.topk : p.max_blocks * p.block_size;
    p.max_segments = max_segments(p.window + (p.compressed_kv != nullptr ? entries : 0));
    p.parts = plan_gpu_attention_parts(tokens, tiles, p.max_segments, caps_of(q));
    OptTensor states;
    if (p.parts > 1) {
      states = bytes(q, tokens * tiles * p.max_segments * state_values(p.head_dim) * kRowThreads * 4);
      p.states = writable<float>(*states);
    }
    const int64_t space = AttentionSpace(p.head_dim, p.turned_dim).size;
    const int64_t eight = kRowWarps * staged_row_bytes(packed, p.head_dim, p.rope_dim);  // a row of each warp
    p.staged = in_pieces() ? plan_gpu_staged_rows(eight, space, kWarpPlaces, caps_of(q)) : 0;
    cuda::run(op, kernel, p, {tokens, tiles, p.parts}, kRowThreads, q, space + p.staged * eight);
    if (states) cuda::run(op, std::string(op) + "_combine", p, {tokens, tiles, padded_dim(p.head_dim) / 16}, kWarp, q);
    return out;
  }

 private:
  // Whether every row begins at a multiple of 16 bytes.
  bool in_pieces() const {
    const auto places = reinterpret_cast<uintptr_t>(p.window_kv) | reinterpret_cast<uintptr_t>(p.compressed_kv);
    const int64_t apart = p.window_stride | p.block_stride | staged_row_bytes(packed, p.head_dim, p.rope_dim);
    return places % 16 == 0 && apart % 16 == 0;
  }
  static int64_t page_bytes(const Tensor& pages) {
    return pages.stride(0) * static_cast<int64_t>(pages.element_size());
  }
};

}  // namespace v4npu::cuda
