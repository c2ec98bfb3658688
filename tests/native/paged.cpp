// The kernels over the paged cache, on ragged batches: pages lie in any order, and a table names none that no query
// needs, so that touching one is touching memory of nobody's.
#include <algorithm>

#include "driver.h"
#include "v4npu/cache_layout.h"
#include "v4npu/ops/compressor.h"
#include "v4npu/ops/csa_attention.h"
#include "v4npu/ops/hca_attention.h"
#include "v4npu/ops/indexer_scores.h"
#include "v4npu/ops/indexer_topk.h"
#include "v4npu/ops/qkv_prepare.h"
#include "v4npu/ops/window_attention.h"

namespace v4npu::cpu {
namespace V4NPU_ISA {
void compressor(const CompressorParams&);
void csa_attention(const CsaAttentionParams&);
void hca_attention(const HcaAttentionParams&);
void indexer_scores(const IndexerScoresParams&);
void indexer_topk(const IndexerTopkParams&);
void qkv_prepare(const QkvPrepareParams&);
void window_attention(const WindowAttentionParams&);
}  // namespace V4NPU_ISA

namespace kernels = V4NPU_ISA;

namespace test {
namespace {

struct Batch {
  std::vector<int32_t> lengths, starts;
  std::vector<int32_t> ends() const {
    std::vector<int32_t> all{0};
    for (const int32_t n : lengths) all.push_back(all.back() + n);
    return all;
  }
  int64_t tokens() const { return ends().back(); }
  int64_t count() const { return static_cast<int64_t>(lengths.size()); }
  int64_t total(size_t b) const { return starts[b] + lengths[b]; }
};

template <class Params>
void describe(Case& c, Params& p, const Batch& batch) {
  p.cu_seqlens_q = c.copy(batch.ends());
  p.start_pos = c.copy(batch.starts);
  p.num_tokens = batch.tokens();
  p.num_seqs = batch.count();
}

RowFormat format_of(bool packed, int64_t dim, int64_t rope_dim, Dtype dtype) {
  return packed ? fp8_kv_row(dim, rope_dim) : plain_row(dim, dtype == Dtype::kFloat32 ? 4 : 2);
}

// What a row of each format may hold.
enum class Content { kPlain, kFp8Kv, kFp4Key, kFp8Key };

struct Pages {
  const void* rows;
  const int32_t* table;
  int64_t stride, width;  // bytes of a page, pages of a sequence
};

// Pages of `size` rows for the rows [first[b], end[b]) of each sequence; the table has one place more than it needs.
Pages pages(Case& c, Content content, const RowFormat& format, int64_t keep, int64_t size,
            const std::vector<int64_t>& first, const std::vector<int64_t>& end) {
  int64_t width = 1, needed = 0;
  for (size_t b = 0; b < first.size(); ++b) {
    if (first[b] >= end[b]) continue;
    width = std::max(width, (end[b] - 1) / size + 2);
    needed += (end[b] - 1) / size - first[b] / size + 1;
  }
  std::vector<int32_t> table(first.size() * static_cast<size_t>(width), -1);
  const std::vector<int32_t> order = c.order(needed);
  int64_t next = 0;
  for (size_t b = 0; b < first.size(); ++b) {
    for (int64_t i = first[b] / size; first[b] < end[b] && i <= (end[b] - 1) / size; ++i)
      table[b * static_cast<size_t>(width) + static_cast<size_t>(i)] = order[static_cast<size_t>(next++)];
  }
  const int64_t page = size * format.row(), rows = needed * size;
  if (content == Content::kPlain) return {c.values(rows * keep), c.copy(table), page, width};
  auto* base = static_cast<uint8_t*>(c.bytes(needed * page));
  const bool fp4 = content == Content::kFp4Key;
  const uint8_t* codes = fp4 ? c.e2m1(rows * format.payload) : c.e4m3(rows * keep);
  const int64_t coded = fp4 ? format.payload : keep, turned = format.payload - coded;
  const auto* halves = static_cast<const uint8_t*>(c.halves(rows * turned / 2));
  const uint8_t* scales =
      content == Content::kFp8Key ? reinterpret_cast<const uint8_t*>(c.floats(rows)) : c.scales(rows * format.scales);
  for (int64_t row = 0; row < rows; ++row) {
    uint8_t* at = base + row / size * page;
    uint8_t* payload = at + row % size * format.payload;
    std::memcpy(payload, codes + row * coded, static_cast<size_t>(coded));
    if (turned > 0) std::memcpy(payload + coded, halves + row * turned, static_cast<size_t>(turned));
    std::memcpy(at + size * format.payload + row % size * format.scales, scales + row * format.scales,
                static_cast<size_t>(format.scales));
  }
  return {base, c.copy(table), page, width};
}

// Where n rows go in pages of `size`: anywhere, each to its own, some nowhere.
template <class Params>
void store_into(Case& c, Params& p, void*& cache, int64_t n, int64_t size, const RowFormat& format, bool packed) {
  const int64_t blocks = n / size + 1;
  std::vector<int64_t> slots;
  for (const int32_t slot : c.order(blocks * size)) slots.push_back(slots.size() % 5 == 3 ? -1 : slot);
  slots.resize(static_cast<size_t>(n));
  p.slot_mapping = c.copy(slots);
  cache = c.out(blocks * size * format.row());
  p.block_size = size, p.block_stride = size * format.row(), p.packed = packed;
}

void qkv_of(int64_t t, int64_t heads, int64_t dim, int64_t rope_dim, bool official, bool packed, Dtype dtype) {
  Case c("qkv_prepare", dtype);
  QkvPrepareParams p{};
  p.q = c.values(t * heads * dim), p.kv = c.values(t * dim), p.kv_norm_weight = c.values(dim);
  p.positions = c.integers(t, 1 << 20);
  p.freqs = c.floats(rope_dim / 2);
  p.q_out = c.out_values(t * heads * dim), p.kv_out = c.out_values(t * dim);
  store_into(c, p, p.window_cache, t, 4, format_of(packed, dim, rope_dim, dtype), packed);
  p.num_tokens = t, p.num_heads = heads, p.head_dim = dim, p.rope_dim = rope_dim;
  p.eps = 1e-6f, p.official = official, p.dtype = p.weight_dtype = dtype;
  c.run([&] { kernels::qkv_prepare(p); });
}

void compressor_of(const Batch& batch, int64_t dim, int64_t rope_dim, int64_t ratio, bool overlap,
                   CompressorParams::Quant quant, bool packed, Dtype dtype) {
  using Quant = CompressorParams::Quant;
  Case c("compressor", dtype);
  CompressorParams p{};
  describe(c, p, batch);
  const int64_t t = batch.tokens(), columns = (overlap ? 2 : 1) * dim;
  p.ring = (overlap ? 2 : 1) * ratio + 3;
  p.state_stride = 2 * p.ring * columns;
  for (size_t b = 0; b < batch.lengths.size(); ++b) p.num_entries += batch.total(b) / ratio - batch.starts[b] / ratio;
  p.kv = c.floats(t * columns), p.score = c.floats(t * columns), p.ape = c.floats(ratio * columns);
  p.norm_weight = c.values(dim), p.freqs = c.floats(rope_dim / 2);
  p.state = c.state((batch.count() + 1) * p.state_stride);
  std::vector<int32_t> slots = c.order(batch.count() + 1);
  slots.pop_back();
  p.state_slots = c.copy(slots);
  p.entries = c.out_values(p.num_entries * dim);
  const RowFormat format = quant == Quant::kHadamardFp4 && packed   ? fp4_key_row(dim)
                           : quant == Quant::kHadamardFp8 && packed ? fp8_key_row(dim)
                                                                    : format_of(packed, dim, rope_dim, dtype);
  store_into(c, p, p.cache, p.num_entries, 3, format, packed);
  p.head_dim = dim, p.rope_dim = rope_dim, p.ratio = ratio, p.overlap = overlap, p.eps = 1e-6f;
  p.quant = quant, p.dtype = p.weight_dtype = dtype;
  c.run([&] { kernels::compressor(p); });
}

std::vector<int64_t> complete_entries(const Batch& batch, int64_t ratio) {
  std::vector<int64_t> ends;
  for (size_t b = 0; b < batch.lengths.size(); ++b) ends.push_back(batch.lengths[b] > 0 ? batch.total(b) / ratio : 0);
  return ends;
}

template <class Params>
void indexer(Case& c, Params& p, const Batch& batch, int64_t heads, int64_t dim, KeyFormat key_format, bool official,
             Dtype dtype) {
  describe(c, p, batch);
  p.ratio = 4;
  p.q = c.values(p.num_tokens * heads * dim), p.weights = c.values(p.num_tokens * heads);
  p.block_size = 32;
  const std::vector<int64_t> ends = complete_entries(batch, p.ratio);
  const bool fp4 = key_format == KeyFormat::kFp4, fp8 = key_format == KeyFormat::kFp8;
  const Pages keys = pages(c,
                           fp4   ? Content::kFp4Key
                           : fp8 ? Content::kFp8Key
                                 : Content::kPlain,
                           fp4   ? fp4_key_row(dim)
                           : fp8 ? fp8_key_row(dim)
                                 : format_of(false, dim, 0, dtype),
                           dim, p.block_size, std::vector<int64_t>(ends.size()), ends);
  p.keys = keys.rows, p.block_table = keys.table, p.block_stride = keys.stride, p.max_blocks = keys.width;
  p.num_heads = heads, p.head_dim = dim, p.key_format = key_format, p.official = official, p.dtype = dtype;
}

void indexer_of(const Batch& batch, int64_t heads, int64_t dim, KeyFormat key_format, bool official, Dtype dtype) {
  {
    Case c("indexer_scores", dtype);
    IndexerScoresParams p{};
    indexer(c, p, batch, heads, dim, key_format, official, dtype);
    p.scores = c.out<float>(p.num_tokens * p.max_blocks * p.block_size * 4);
    c.run([&] { kernels::indexer_scores(p); }, p.query_tile, {4, 32});
  }
  for (const int64_t topk : {9, 300}) {
    Case c("indexer_topk", dtype);
    IndexerTopkParams p{};
    indexer(c, p, batch, heads, dim, key_format, official, dtype);
    p.topk = topk;
    p.topk_indices = c.out<int32_t>(p.num_tokens * topk * 4);
    c.run([&] { kernels::indexer_topk(p); }, p.query_tile, {4, 32});
  }
}

struct Heads {
  int64_t count, dim, rope_dim;
  bool packed, official;
  int64_t window = 11;
};

template <class Params>
void attention(Case& c, Params& p, const Batch& batch, const Heads& h, Dtype dtype) {
  describe(c, p, batch);
  p.window = h.window, p.window_block = 4;
  std::vector<int64_t> first, end;
  for (size_t b = 0; b < batch.lengths.size(); ++b) {
    first.push_back(std::max<int64_t>(0, batch.starts[b] - p.window + 1));
    end.push_back(batch.lengths[b] > 0 ? batch.total(b) : 0);
  }
  const int64_t keep = h.packed ? h.dim - h.rope_dim : h.dim;
  const Pages rows = pages(c, h.packed ? Content::kFp8Kv : Content::kPlain,
                           format_of(h.packed, h.dim, h.rope_dim, dtype), keep, p.window_block, first, end);
  p.window_kv = rows.rows, p.window_table = rows.table, p.window_stride = rows.stride;
  p.max_window_blocks = rows.width;
  p.q = c.values(p.num_tokens * h.count * h.dim);
  if (h.count != 3) p.attn_sink = c.floats(h.count);
  p.out = c.out_values(p.num_tokens * h.count * h.dim);
  p.num_heads = h.count, p.head_dim = h.dim, p.rope_dim = h.rope_dim, p.softmax_scale = 0.1f;
  p.packed = h.packed, p.official = h.official, p.dtype = dtype;
}

template <class Params>
void entries(Case& c, Params& p, const Batch& batch, const Heads& h, int64_t ratio, Dtype dtype) {
  p.block_size = 3;
  const std::vector<int64_t> ends = complete_entries(batch, ratio);
  const Pages rows =
      pages(c, h.packed ? Content::kFp8Kv : Content::kPlain, format_of(h.packed, h.dim, h.rope_dim, dtype),
            h.packed ? h.dim - h.rope_dim : h.dim, p.block_size, std::vector<int64_t>(ends.size()), ends);
  p.compressed_kv = rows.rows, p.block_table = rows.table, p.block_stride = rows.stride, p.max_blocks = rows.width;
}

// Some picks of every query among the entries that it sees, the rest -1.
const int32_t* picks(Case& c, const Batch& batch, int64_t topk, int64_t ratio) {
  std::vector<int32_t> all;
  for (size_t b = 0; b < batch.lengths.size(); ++b) {
    for (int32_t i = 0; i < batch.lengths[b]; ++i) {
      std::vector<int32_t> own = c.order((batch.starts[b] + i + 1) / ratio);
      own.resize(static_cast<size_t>(topk), -1);
      own[static_cast<size_t>(topk) / 2] = -1;
      all.insert(all.end(), own.begin(), own.end());
    }
  }
  return c.copy(all);
}

void attentions_of(const Batch& batch, const Heads& h, Dtype dtype) {
  {
    Case c("window_attention", dtype);
    WindowAttentionParams p{};
    attention(c, p, batch, h, dtype);
    c.run([&] { kernels::window_attention(p); }, p.head_group, {16, 64});
  }
  {
    Case c("csa_attention", dtype);
    CsaAttentionParams p{};
    attention(c, p, batch, h, dtype);
    entries(c, p, batch, h, /*ratio=*/4, dtype);
    p.topk = 21;
    p.topk_indices = picks(c, batch, p.topk, 4);
    c.run([&] { kernels::csa_attention(p); }, p.head_group, {16, 64});
  }
  Case c("hca_attention", dtype);
  HcaAttentionParams p{};
  attention(c, p, batch, h, dtype);
  p.ratio = 6;
  entries(c, p, batch, h, p.ratio, dtype);
  c.run([&] { kernels::hca_attention(p); }, p.head_group, {16, 64});
}

}  // namespace

void paged(Dtype dtype) {
  using Quant = CompressorParams::Quant;
  const bool narrow = dtype == Dtype::kBfloat16;
  // Nothing, a sequence of its own, a ragged batch, and contexts long enough for parts of
  // keys, and for parts of a token's rows and dims; queries enough to share their windows.
  const std::vector<Batch> batches = {{{0}, {0}}, {{1}, {6}}, {{3, 0, 9, 1, 37}, {0, 5, 130, 251, 2}}};
  const Batch far = {{2}, {9000}}, decode = {{1}, {9000}}, neighbours = {{37, 20}, {50, 251}};
  for (const int64_t t : {0, 1, 19}) {
    for (const bool official : {false, true}) {
      qkv_of(t, 3, 80, 16, official, official && narrow, dtype);
      qkv_of(t, 2, 200, 64, official, official && narrow, dtype);
    }
    qkv_of(t, 1, 7, 2, false, false, dtype);
  }
  for (const Batch& batch : batches) {
    for (const bool overlap : {true, false}) {
      compressor_of(batch, 80, 16, 4, overlap, narrow ? Quant::kFp8 : Quant::kNone, narrow, dtype);
      compressor_of(batch, 128, 64, 6, overlap, Quant::kHadamardFp4, narrow, dtype);
      compressor_of(batch, 64, 16, 4, overlap, Quant::kHadamardFp8, narrow, dtype);
      compressor_of(batch, 7, 2, 4, overlap, Quant::kNone, false, dtype);
    }
    for (const bool official : {false, true}) {
      const bool packed = official && narrow;
      indexer_of(batch, 64, 128, packed ? KeyFormat::kFp4 : KeyFormat::kPlain, official, dtype);
      indexer_of(batch, 3, 32, packed ? KeyFormat::kFp8 : KeyFormat::kPlain, official, dtype);
      attentions_of(batch, {3, 80, 16, packed, official}, dtype);
      attentions_of(batch, {70, 64, 32, packed, official}, dtype);
      attentions_of(batch, {3, 64, 2, packed, official}, dtype);
      attentions_of(batch, {3, 67, 6, packed, official}, dtype);
      indexer_of(batch, 5, 15, KeyFormat::kPlain, official, dtype);
      for (const int64_t none : {0, 1}) indexer_of(batch, none, 1 - none, KeyFormat::kPlain, official, dtype);
      attentions_of(batch, {17, 23, 0, false, official}, dtype);
    }
  }
  indexer_of(far, 4, 32, narrow ? KeyFormat::kFp4 : KeyFormat::kPlain, true, dtype);
  attentions_of(far, {16, 64, 32, narrow, true}, dtype);
  attentions_of(decode, {5, 80, 16, narrow, true}, dtype);
  attentions_of(neighbours, {3, 80, 16, narrow, true, 64}, dtype);
}

}  // namespace test
}  // namespace v4npu::cpu
