// What the launchers of indexer_scores and indexer_topk share.
#pragma once

#include "launch.h"
#include "ops/indexer_calls.h"
#include "plan/gpu.h"

namespace v4npu::cuda {

// What both know of a call; a launcher adds its output.
template <class Params>
struct IndexerCall : v4npu::IndexerCall<Params> {
  using v4npu::IndexerCall<Params>::IndexerCall;
  using v4npu::IndexerCall<Params>::p;

  static bool takes(const Tensor& q, const Tensor& weights, const Tensor& keys) {
    const KeyFormat format = key_format(keys, q.size(2));
    return runs(q) && weights.scalar_type() == q.scalar_type() &&
           (format != KeyFormat::kPlain || keys.scalar_type() == q.scalar_type()) &&
           (format != KeyFormat::kFp4 || q.size(2) % 32 == 0) &&
           (format == KeyFormat::kPlain || q.size(2) <= kMaxIndexHead);
  }

  // Whether tokens share keys.
  bool tiled(const GpuIndexPlan& plan) const { return plan.tiled && p.dtype == Dtype::kBfloat16; }
  // Of the packed keys that a block of indexer_topk scores at a time.
  int64_t stage_bytes() const {
    if (p.key_format == KeyFormat::kPlain) return 0;
    return kRowWarps * key_stage_bytes(p.head_dim, p.key_format == KeyFormat::kFp4 ? 4 : 8);
  }
  // How many of those each of so many blocks has.
  int stages(int64_t blocks) const {
    const DeviceCaps& caps = caps_of(this->q);
    const int64_t stage = stage_bytes();
    if (stage == 0) return 1;
    const int planned = plan_gpu_stages(stage, stage, kTopkBytes, plan_gpu_blocks(blocks, caps), caps);
    return planned * stage + kTopkBytes <= caps.shared_bytes ? planned : 1;
  }
  int64_t width() const { return p.max_blocks * p.block_size; }
  std::string kernel(const char* op) const {
    if (p.dtype == Dtype::kFloat32) return std::string(op) + "_fp32";
    const char* keys = p.key_format == KeyFormat::kPlain ? "_plain" : p.key_format == KeyFormat::kFp4 ? "_fp4" : "_fp8";
    return std::string(op) + keys + (p.official ? "_official" : "");
  }
};

// Scores of some tokens and keys, by blocks of tokens that share keys (device/indexer.cuh: 32 and 64).
inline void run_score_tile(const IndexerCall<IndexerScoresParams>& call, int64_t first_token, int64_t end_token,
                           int64_t first_key, int64_t end_key) {
  const ScoreTile tile{call.p, first_token, end_token, first_key, end_key};
  const Grid grid{ceil_div(end_key - first_key, 64) * ceil_div(end_token - first_token, 32)};
  run("indexer_scores", call.kernel("indexer_scores_tile"), tile, grid, kRowThreads, call.q);
}

// All of indexer_topk that way: of plan.tokens tokens at a time and plan.keys keys, which bounds the memory of scores.
inline void run_topk_tiles(IndexerCall<IndexerScoresParams>& scorer, IndexerTopkParams p, const GpuIndexPlan& plan) {
  const int64_t width = scorer.width(), parts = ceil_div(width, plan.keys), row = width < plan.keys ? width : plan.keys;
  const Tensor scores = bytes(scorer.q, plan.tokens * row * 4);
  const Tensor best = bytes(scorer.q, parts > 1 ? plan.tokens * parts * p.topk * 8 : 0);
  scorer.p.scores = writable<float>(scores);
  for (int64_t first = 0; first < p.num_tokens; first += plan.tokens) {
    const int64_t end = first + plan.tokens < p.num_tokens ? first + plan.tokens : p.num_tokens;
    TopkSelect select{p, scorer.p.scores, writable<uint64_t>(best), first, 0, 0, 0, parts};
    for (; select.part < parts; ++select.part) {
      select.first_key = select.part * plan.keys;
      select.end_key = select.first_key + plan.keys < width ? select.first_key + plan.keys : width;
      run_score_tile(scorer, first, end, select.first_key, select.end_key);
      run("indexer_topk", "indexer_topk_select", select, {end - first}, kRowThreads, scorer.q);
    }
    const TopkSearch merge{p, select.best, parts, first};
    if (parts > 1) run("indexer_topk", "indexer_topk_merge", merge, {end - first}, kRowThreads, scorer.q);
  }
}

}  // namespace v4npu::cuda
