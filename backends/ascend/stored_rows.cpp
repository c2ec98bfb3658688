#include "stored_rows.h"

#include <algorithm>
#include <cmath>

#include "ops/check.h"
#include "steps.h"

namespace v4npu::ascend {
namespace {

int64_t width_of(const Tensor& t) { return static_cast<int64_t>(t.element_size()); }
int64_t row_bytes(const OptTensor& t) { return t ? t->size(1) * width_of(*t) : 0; }

}  // namespace

void StoredRows::round_kv(int64_t keep) {
  if (keep == 0) return;
  std::tie(codes, scales) = launch_act_quant(rows, 64);
  coded = keep;
  launch("qkv_prepare_round_" + suffix(rows), ceil_div(rows.size(0), 32) * ceil_div(keep, 128), rows, pointer(codes),
         pointer(scales), pointer(rows), rows.size(0), rows.size(1), keep);
}

void StoredRows::round_keys(bool fp4, bool packed) {
  const int64_t num_rows = rows.size(0), n = coded = rows.size(1);
  if (fp4) {
    const Tensor rounded = uninitialised_like(rows);
    launch("indexer_query_" + suffix(rows), num_rows, rows, pointer(rows), pointer(rounded), num_rows, n,
           static_cast<float>(1.0 / std::sqrt(static_cast<double>(n))));
    rows = rounded;
    if (packed) std::tie(codes, scales) = launch_fp4_act_quant(rows, 32);
    return;
  }
  rows = launch_hadamard(rows);
  std::tie(codes, scales) = launch_act_quant(rows, n);
  launch("compressor_round_" + suffix(rows), ceil_div(num_rows, 32), rows, pointer(codes), pointer(scales),
         pointer(rows), num_rows, n);
  if (!packed) return;
  const Tensor wide = uninitialised(rows, {num_rows, 1}, ScalarType::Float);
  launch("compressor_scales", ceil_div(num_rows, 2048), rows, pointer(scales), pointer(wide), num_rows);
  scales = wide;
}

void StoredRows::store(const OptTensor& cache, const OptTensor& slots_) const {
  if (!cache) return;
  const Tensor slots = dense(*slots_);
  const bool packed = cache->scalar_type() == ScalarType::Byte;
  const int64_t dim = rows.size(1), kept = packed ? coded : 0, tail = (dim - kept) * width_of(rows);
  // A row of kv has codes and scales that are not stored.
  const int64_t code_bytes = !packed ? 0 : std::min(row_bytes(codes), kept);
  const int64_t padded = packed ? cache->size(2) - code_bytes - tail : 0;
  const int64_t scale_bytes = std::min(row_bytes(scales), kept < dim ? kept / 64 : padded);
  const int64_t page_bytes = cache->size(1) * cache->size(2) * width_of(*cache);
  launch("qkv_prepare_store", rows.size(0), rows, pointer(rows), pointer(codes), pointer(scales), pointer(slots),
         pointer(*cache), rows.size(0), row_bytes(rows), tail, row_bytes(codes), code_bytes, row_bytes(scales),
         scale_bytes, padded, cache->size(0), cache->size(1), cache->stride(0) * width_of(*cache), page_bytes);
}

}  // namespace v4npu::ascend
