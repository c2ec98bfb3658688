// What launchers of paged operators share: where pages lie, and the checks that need the values of small tensors, so
// that a kernel may take every index as it comes. Their texts are those of the reference.
#pragma once

#include <stdexcept>
#include <string>

#include "../launch.h"
#include "ops/calls.h"
#include "plan/cpu_tiles.h"

namespace v4npu::cpu {

inline void refuse(const std::string& text) { throw std::invalid_argument("v4npu" + text); }

// cu_seqlens_q and start_pos, contiguous, of a call with num_tokens tokens.
struct Sequences {
  Tensor ends, starts;
  const int32_t *end, *start;
  int64_t count;

  Sequences(const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t num_tokens)
      : ends(dense(cu_seqlens_q)),
        starts(dense(start_pos)),
        end(pointer<int32_t>(ends)),
        start(pointer<int32_t>(starts)),
        count(start_pos.numel()) {
    bool rising = end[0] == 0;
    for (int64_t b = 0; b < count; ++b) rising = rising && end[b] <= end[b + 1] && start[b] >= 0;
    if (!rising) {
      refuse(": cu_seqlens_q must rise from 0 and start_pos must not be negative, got " + list(end, count + 1) +
             " and " + list(start, count));
    }
    if (end[count] != num_tokens) {
      refuse(": cu_seqlens_q must end at the number of tokens, " + std::to_string(num_tokens) + ", got " +
             list(end, count + 1));
    }
  }
  int64_t length(int64_t b) const { return end[b + 1] - end[b]; }
  int64_t total(int64_t b) const { return start[b] + length(b); }

 private:
  static std::string list(const int32_t* values, int64_t n) {
    std::string text = "[";
    for (int64_t i = 0; i < n; ++i) text += (i > 0 ? ", " : "") + std::to_string(values[i]);
    return text + "]";
  }
};

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

  // Rows that tokens of sequence b pick must exist; negative ones are none.
  void check_picks(int64_t b, const int32_t* picks, int64_t n) const {
    int64_t last = -1;
    for (int64_t i = 0; i < n; ++i) last = picks[i] > last ? picks[i] : last;
    check_end(last);
    for (int64_t i = 0; i < n; ++i) {
      if (picks[i] >= 0) check_block(b, picks[i] / block_size);
    }
  }

  // Rows [first, last] of sequence b must exist.
  void check(int64_t b, int64_t first, int64_t last) const {
    if (last < first) return;
    check_end(last);
    for (int64_t i = first / block_size; i <= last / block_size; ++i) check_block(b, i);
  }

 private:
  void check_end(int64_t last) const {
    if (last < max_blocks * block_size) return;
    refuse(": a block table of " + std::to_string(max_blocks) + " x " + std::to_string(block_size) +
           " rows has no row " + std::to_string(last));
  }
  void check_block(int64_t b, int64_t i) const {
    const int32_t block = pointer<int32_t>(table)[b * max_blocks + i];
    if (block < 0 || block >= rows.size(0)) {
      refuse(": a block table names block " + std::to_string(block) + " where rows are needed");
    }
  }
};

// slot_mapping of rows to store into `cache`.
inline void check_slots(const OptTensor& slots, const OptTensor& cache) {
  if (!cache) return;
  const int64_t n = cache->size(0) * cache->size(1);
  for (int64_t i = 0; i < slots->numel(); ++i) {
    const int64_t slot = pointer<int64_t>(*slots)[i];
    if (slot >= n) refuse(": slot " + std::to_string(slot) + " lies behind a cache of " + std::to_string(n) + " rows");
  }
}

// What compressor asks of its sequences: as many entries as promised, and a state wherever an earlier row is pooled.
inline void check_compressor_state(const Sequences& seqs, int64_t ratio, bool overlap, int64_t num_entries,
                                   const OptTensor& state, const OptTensor& state_slots) {
  int64_t found = 0;
  for (int64_t b = 0; b < seqs.count; ++b) {
    const int64_t start = seqs.start[b];
    found += seqs.total(b) / ratio - start / ratio;
    if (!state && start > 0 && (overlap || start % ratio > 0)) {
      refuse(".compressor: state must be given when start_pos is not 0, got start_pos " + std::to_string(start));
    }
    const int32_t slot = state ? pointer<int32_t>(state_slots)[b] : 0;
    if (state && (slot < 0 || slot >= state->size(0))) {
      refuse(".compressor: state_slots must lie in [0, " + std::to_string(state->size(0)) + "), got " +
             std::to_string(slot));
    }
  }
  if (found != num_entries) {
    refuse(".compressor: num_entries must be " + std::to_string(found) + " for these sequences, got " +
           std::to_string(num_entries));
  }
}

// What indexer_scores and indexer_topk share; a launcher adds its output.
template <class Params>
struct IndexerCall {
  Tensor q, weights;
  Sequences seqs;
  Pages pages;
  Params p{};

  static bool takes(const Tensor& q, const Tensor& weights, const Tensor& keys) {
    return native(q) && weights.scalar_type() == q.scalar_type() && Pages::native(keys, q);
  }

  IndexerCall(const Tensor& q_, const Tensor& weights_, const Tensor& keys, const Tensor& block_table,
              const Tensor& cu_seqlens_q, const Tensor& start_pos, int64_t ratio, bool official)
      : q(dense(q_)), weights(dense(weights_)), seqs(cu_seqlens_q, start_pos, q.size(0)), pages(keys, block_table) {
    p.q = pointer<void>(q);
    p.weights = pointer<void>(weights);
    p.keys = pointer<void>(keys);
    p.block_table = pointer<int32_t>(pages.table);
    p.cu_seqlens_q = seqs.end;
    p.start_pos = seqs.start;
    p.num_tokens = q.size(0);
    p.num_seqs = seqs.count;
    p.num_heads = q.size(1);
    p.head_dim = q.size(2);
    p.block_size = pages.block_size;
    p.block_stride = pages.stride;
    p.max_blocks = pages.max_blocks;
    p.ratio = ratio;
    p.official = official;
    p.dtype = dtype_of(q);
    p.keys_are = key_format(keys, p.head_dim);
    p.query_tile = plan_cpu_query_tile(p.num_heads, p.head_dim, this_cpu());
  }
  // Entries that exist, the first `most` of each sequence, must have a row.
  void check(int64_t most) const {
    for (int64_t b = 0; b < seqs.count; ++b) {
      const int64_t entries = seqs.total(b) / p.ratio;
      if (seqs.length(b) > 0) pages.check(b, 0, (entries < most ? entries : most) - 1);
    }
  }
};

// What the three attentions share. The tensors of a launcher's arguments outlive the call; what had to be copied is
// here.
template <class Params>
struct AttentionCall {
  Tensor q, out;
  OptTensor sink, positions, freqs;
  Sequences seqs;
  Pages window;
  Params p{};

  static bool takes(const Tensor& q, const Tensor& window_kv, const OptTensor& sink) {
    return native(q) && is_float32(sink) && Pages::native(window_kv, q);
  }

  AttentionCall(const Tensor& q_, const Tensor& window_kv, const Tensor& window_table, const Tensor& cu_seqlens_q,
                const Tensor& start_pos, const OptTensor& sink_, double scale, int64_t width, int64_t rope_dim,
                bool official, const OptTensor& positions_, const OptTensor& freqs_)
      : q(dense(q_)),
        out(uninitialised_like(q)),
        sink(dense(sink_)),
        positions(dense(positions_)),
        freqs(dense(freqs_)),
        seqs(cu_seqlens_q, start_pos, q.size(0)),
        window(window_kv, window_table) {
    for (int64_t b = 0; b < seqs.count; ++b) {
      const int64_t oldest = seqs.start[b] - width + 1;
      if (seqs.length(b) > 0) window.check(b, oldest > 0 ? oldest : 0, seqs.total(b) - 1);
    }
    p.q = pointer<void>(q);
    p.window_kv = pointer<void>(window_kv);
    p.window_table = pointer<int32_t>(window.table);
    p.cu_seqlens_q = seqs.end;
    p.start_pos = seqs.start;
    p.attn_sink = pointer<float>(sink);
    p.positions = pointer<int64_t>(positions);
    p.freqs = pointer<float>(freqs);
    p.turned_dim = freqs ? 2 * freqs->size(0) : 0;
    p.out = out.mutable_data_ptr();
    p.num_tokens = q.size(0);
    p.num_seqs = seqs.count;
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
