// What launchers of paged operators share: where pages lie.
#pragma once

#include "../launch.h"
#include "ops/indexer_calls.h"
#include "plan/cpu_tiles.h"

namespace v4npu::cpu {

// Pages whose rows a table names; the rows of `page` may lie apart from those of the next.
struct Pages {
  const Tensor& rows;
  Tensor table;
  int64_t block_size, stride, max_blocks;

  Pages(const Tensor& pages, const Tensor& block_table)
      : rows(pages),
        table(dense(block_table)),
        block_size(pages.size(1)),
        stride(pages.stride(0) * static_cast<int64_t>(pages.element_size())),
        max_blocks(block_table.size(1)) {}
  bool packed() const { return rows.scalar_type() == ScalarType::Byte; }

  // Whether the kernel of activations like q can read them.
  static bool native(const Tensor& pages, const Tensor& q) {
    return pages.scalar_type() == ScalarType::Byte || pages.scalar_type() == q.scalar_type();
  }
};

// What indexer_scores and indexer_topk share; a launcher adds its output.
template <class Params>
struct IndexerCall : v4npu::IndexerCall<Params> {
  static bool takes(const Tensor& q, const Tensor& weights, const Tensor& keys) {
    return native(q) && weights.scalar_type() == q.scalar_type() && Pages::native(keys, q);
  }

  IndexerCall(const Tensor& q, const Tensor& weights, const Tensor& keys, const Tensor& block_table,
              const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, bool official)
      : v4npu::IndexerCall<Params>(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official) {
    this->p.query_tile = plan_cpu_query_tile(this->p.num_heads, this->p.head_dim, this_cpu());
  }
};

// What the three attentions share. The tensors of a launcher's arguments outlive the call; what had to be copied is
// here.
template <class Params>
struct AttentionCall {
  Tensor q, out, cu_seqlens_q, start_pos;
  OptTensor sink, positions, freqs;
  Pages window;
  Params p{};

  static bool takes(const Tensor& q, const Tensor& window_kv, const OptTensor& sink) {
    return native(q) && is_float32(sink) && Pages::native(window_kv, q);
  }

  AttentionCall(const Tensor& q_, const Tensor& window_kv, const Tensor& window_table, const Tensor& cu_seqlens_q_,
                const Tensor& start_pos_, const OptTensor& sink_, double scale, int64_t width, int64_t rope_dim,
                bool official, const OptTensor& positions_, const OptTensor& freqs_)
      : q(dense(q_)),
        out(uninitialised_like(q)),
        cu_seqlens_q(dense(cu_seqlens_q_)),
        start_pos(dense(start_pos_)),
        sink(dense(sink_)),
        positions(dense(positions_)),
        freqs(dense(freqs_)),
        window(window_kv, window_table) {
    p.q = pointer<void>(q);
    p.window_kv = pointer<void>(window_kv);
    p.window_table = pointer<int32_t>(window.table);
    p.cu_seqlens_q = pointer<int32_t>(cu_seqlens_q);
    p.start_pos = pointer<int32_t>(start_pos);
    p.attn_sink = pointer<float>(sink);
    p.positions = pointer<int64_t>(positions);
    p.freqs = pointer<float>(freqs);
    p.turned_dim = freqs ? 2 * freqs->size(0) : 0;
    p.out = out.mutable_data_ptr();
    p.num_tokens = q.size(0);
    p.num_seqs = start_pos.size(0);
    p.num_heads = q.size(1);
    p.head_dim = q.size(2);
    p.window_block = window.block_size;
    p.window_stride = window.stride;
    p.max_window_blocks = window.max_blocks;
    p.window = width;
    p.rope_dim = rope_dim;
    p.softmax_scale = static_cast<float>(scale);
    p.packed = window.packed();
    p.official = official;
    p.dtype = dtype_of(q);
    p.head_group = plan_cpu_head_group(p.head_dim, this_cpu());
  }
  void entries(const Pages& pages) {
    p.compressed_kv = pointer<void>(pages.rows);
    p.block_table = pointer<int32_t>(pages.table);
    p.block_size = pages.block_size;
    p.block_stride = pages.stride;
    p.max_blocks = pages.max_blocks;
  }
};

}  // namespace v4npu::cpu
