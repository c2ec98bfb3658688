// What the launchers of the three attentions share.
#pragma once

#include "steps.h"

namespace v4npu::ascend {

// The tensors of a call, contiguous where they must be; a launcher adds its entries and calls run().
class AttentionCall {
 public:
  // common/attention.h, packed_rows.h: limits.
  static bool takes(const Tensor& q, const Tensor& kv, const OptTensor& sink, int64_t rope_dim);

  AttentionCall(const Tensor& q, const Tensor& window_kv, const Tensor& window_table, const Tensor& cu_seqlens_q,
                const Tensor& start_pos, const OptTensor& sink, double scale, int64_t window, int64_t rope_dim,
                bool official);
  // Picked ones, or with a ratio every one that is complete.
  void entries(const Tensor& compressed_kv, const Tensor& block_table, const OptTensor& topk_indices, int64_t ratio);
  Tensor run(const std::string& op);

 private:
  struct Pages {
    OptTensor data, table;
    int64_t count = 0, rows = 0, stride = 0, of_sequence = 0;
  };
  static Pages pages(const Tensor& data, const Tensor& table);

  Tensor q_, cu_seqlens_q_, start_pos_;
  OptTensor sink_, picks_;
  Pages window_pages_, entry_pages_;
  int64_t window_, rope_dim_, ratio_ = 0;
  float scale_;
  bool official_;
};

// Step 8, which the kernels leave to rope's (ops/rope.cpp).
inline Tensor turned_back(const Tensor& out, const OptTensor& positions, const OptTensor& freqs) {
  return positions ? launch_rope(out, *positions, *freqs, true) : out;
}

}  // namespace v4npu::ascend
