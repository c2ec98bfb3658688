#include "check.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace v4npu {
namespace {

std::string dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Half: return "float16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Bool: return "bool";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Float8_e5m2: return "float8_e5m2";
    case ScalarType::Float8_e4m3fn: return "float8_e4m3fn";
    case ScalarType::Float8_e8m0fnu: return "float8_e8m0fnu";
    default: return "dtype " + std::to_string(static_cast<int>(type));
  }
}

std::string device_name(const torch::stable::Device& device) {
  using torch::headeronly::DeviceType;
  std::string name;
  switch (device.type()) {
    case DeviceType::CPU: return "cpu";
    case DeviceType::Meta: return "meta";
    case DeviceType::CUDA: name = "cuda"; break;
    case DeviceType::PrivateUse1: name = "npu"; break;
    default: name = "device type " + std::to_string(static_cast<int>(device.type()));
  }
  return device.has_index() ? name + ":" + std::to_string(device.index()) : name;
}

std::string expected_shape(const Dtypes& dtypes, bool leading, std::initializer_list<Axis*> axes) {
  std::string text = std::string(dtypes.name) + " [" + (leading ? "..." : "");
  bool first = !leading;
  for (const Axis* axis : axes) {
    text += (first ? "" : ", ") + std::string(axis->name());
    first = false;
  }
  return text + "]";
}

// Bytes of its storage up to the end of the last element.
int64_t reach(const Tensor& t) {
  if (t.numel() == 0) return 0;
  int64_t last = t.storage_offset();
  for (int64_t i = 0; i < t.dim(); ++i) last += (t.size(i) - 1) * t.stride(i);
  return (last + 1) * static_cast<int64_t>(t.element_size());
}

std::string at(int64_t value, int64_t i) { return std::to_string(value) + " at " + std::to_string(i); }

std::string tokens(const Axis& num_tokens) { return " (num_tokens = " + std::to_string(*num_tokens) + ")"; }

bool is_number(const char* text) { return *text >= '0' && *text <= '9'; }

}  // namespace

std::string describe(const Tensor& t) {
  if (!t.defined()) return "None";  // Python's, where a tensor is wanted
  std::string text = dtype_name(t.scalar_type()) + " [";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i ? ", " : "") + std::to_string(t.size(i));
  return text + "]";
}

std::string describe(const std::optional<Tensor>& t) { return t ? describe(*t) : "None"; }

std::string describe(double number) {
  std::ostringstream text;
  text << number;
  return text.str();
}

void Check::fail(const char* arg, const std::string& expected, const std::string& got) const {
  throw std::invalid_argument("v4npu." + std::string(op_) + ": " + arg + " must be " + expected + ", got " + got);
}

void Check::clamp(const char* arg, double limit) const {
  using Bounds = std::numeric_limits<float>;
  const bool normal = limit >= Bounds::min() && limit <= Bounds::max();
  require(normal || limit == 0 || limit == Bounds::infinity(), arg,
          "0 (no clamp), infinite or a normal float32 above 0", limit);
}

void Check::dtype(const char* arg, ScalarType type, const Dtypes& dtypes) const {
  if (!dtypes.has(type)) fail(arg, dtypes.name, dtype_name(type));
}

void Check::tensor(const char* arg, const Tensor& t, const Dtypes& dtypes, bool leading,
                   std::initializer_list<Axis*> axes) {
  if (!t.defined()) fail(arg, expected_shape(dtypes, leading, axes), describe(t));
  require(t.layout() == torch::headeronly::Layout::Strided, arg, "strided", "another layout");
  const auto rank = static_cast<int64_t>(axes.size());
  const bool rank_ok = leading ? t.dim() >= rank : t.dim() == rank;
  bool ok = rank_ok && dtypes.has(t.scalar_type());
  std::string known;  // the lengths that other tensors or parameters have already fixed
  if (rank_ok) {
    int64_t dim = t.dim() - rank;
    for (const Axis* axis : axes) {
      if (axis->matches(t.size(dim++))) continue;
      ok = false;
      if (!is_number(axis->name())) {
        known += (known.empty() ? " (" : ", ") + std::string(axis->name()) + " = " + std::to_string(**axis);
      }
    }
  }
  if (!ok) {
    fail(arg, expected_shape(dtypes, leading, axes), describe(t) + (known.empty() ? "" : known + ")"));
  }
  int64_t dim = t.dim() - rank;
  for (Axis* axis : axes) axis->bind(t.size(dim++));
  int64_t storage_bytes = 0;  // a storage can be made smaller than its tensors are
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(t.get(), &storage_bytes));
  if (reach(t) > storage_bytes)
    fail(arg, "all in its storage", describe(t) + " in a storage of " + std::to_string(storage_bytes) + " bytes");

  if (first_arg_ == nullptr) {
    first_arg_ = arg;
    device_ = t.device();
  } else if (t.device() != device_) {
    fail(arg, "on " + device_name(device_) + " like " + first_arg_, device_name(t.device()));
  }
}

void Check::rope(const char* arg, const Tensor& x, const Tensor& freqs) {
  Axis head_dim("head_dim"), half("rope_dim/2");
  trailing(arg, x, kFloating, head_dim);
  tensor("freqs", freqs, kFreqs, half);
  require(*half <= *head_dim / 2, "freqs", "float32 [rope_dim/2] with rope_dim at most head_dim",
          [&] { return describe(freqs) + " (head_dim = " + std::to_string(*head_dim) + ")"; });
}

bool& Check::stands_for_device() {
  static thread_local bool emulated = false;
  return emulated;
}

void Check::attention(const Attention& a, Axis& num_tokens, Axis& head_dim, Axis& num_seqs) {
  Axis num_heads("num_heads"), max_window_blocks("max_window_blocks");
  tensor("q", a.q, kFloating, num_tokens, num_heads, head_dim);
  sequences(a.cu_seqlens_q, a.start_pos, num_seqs, num_tokens);
  require(a.rope_dim >= 0 && a.rope_dim % 2 == 0 && a.rope_dim <= *head_dim, "rope_dim", "even, 0 to head_dim",
          a.rope_dim);
  pages("window_kv", a.window_kv, head_dim, fp8_kv_row(*head_dim, a.rope_dim), a.q.scalar_type());
  tensor("window_table", a.window_table, kInt32, num_seqs, max_window_blocks);
  tensor("attn_sink", a.attn_sink, kFloat32, num_heads);
  positive("window", a.window);
  require(a.positions.has_value() == a.freqs.has_value(), "freqs",
          a.positions ? "given with positions" : "None without positions", a.freqs);
  if (a.positions) {
    tensor("positions", *a.positions, kInt64, num_tokens);
    rope("q", a.q, *a.freqs);
  }
  each_sequence(a.cu_seqlens_q, a.start_pos, [&](const Span& s) {
    const int64_t oldest = s.start - a.window + 1;
    rows({"window_table", a.window_table, "window_kv", a.window_kv}, s.sequence, oldest > 0 ? oldest : 0, s.total - 1);
  });
}

void Check::sequences(const Tensor& cu_seqlens_q, const Tensor& start_pos, Axis& num_seqs, const Axis& num_tokens) {
  tensor("start_pos", start_pos, kInt32, num_seqs);
  tensor("cu_seqlens_q", cu_seqlens_q, kInt32, Axis("num_seqs+1", *num_seqs + 1));
  if (!reads_values()) return;
  const Values<int32_t> ends(cu_seqlens_q), starts(start_pos);
  int64_t before = 0;
  for (int64_t b = 0; b <= *num_seqs; ++b) {
    const bool ok = (b > 0 || ends[b] == 0) && ends[b] >= before && (b < *num_seqs || ends[b] == *num_tokens);
    if (!ok) fail("cu_seqlens_q", "rising from 0 to num_tokens", at(ends[b], b) + tokens(num_tokens));
    before = ends[b];
    if (b < *num_seqs) require(starts[b] >= 0, "start_pos", "at least 0", [&] { return at(starts[b], b); });
  }
}

void Check::rows(const Table& table, int64_t sequence, int64_t first, int64_t last) const {
  if (last < first) return;
  const auto wants = [&](int64_t row) {
    return "with a block of " + std::string(table.pages_arg) + " for row " + std::to_string(row) + " of sequence " +
           std::to_string(sequence);
  };
  if (last >= table.rows()) {
    fail(table.arg, wants(last),
         std::to_string(table.blocks.size(1)) + " blocks of " + std::to_string(table.pages.size(1)) + " rows");
  }
  const Values<int32_t> blocks(table.blocks);
  const int64_t size = table.pages.size(1);
  for (int64_t i = first / size; i <= last / size; ++i) {
    const int64_t block = blocks.at(sequence, i);
    if (block >= 0 && block < table.pages.size(0)) continue;
    fail(table.arg, wants(std::max(first, i * size)),
         std::to_string(block) + " of " + std::to_string(table.pages.size(0)));
  }
}

void Check::picks(const Table& table, const char* arg, const Tensor& indices, const Span& span) const {
  const Values<int32_t> picked(indices), blocks(table.blocks);
  const int64_t end = table.rows(), num_blocks = table.pages.size(0);
  const auto size = static_cast<uint32_t>(table.pages.size(1));
  for (int64_t t = span.begin; t < span.end; ++t) {
    for (int64_t i = 0; i < picked.count; ++i) {
      const int32_t row = picked.at(t, i);
      if (row < 0) continue;
      if (row >= end) fail(arg, "below the " + std::to_string(end) + " rows of " + table.arg, std::to_string(row));
      const int32_t block = blocks.at(span.sequence, static_cast<uint32_t>(row) / size);
      if (block < 0 || block >= num_blocks) rows(table, span.sequence, row, row);  // says so
    }
  }
}

void Check::slots(const char* arg, const Tensor& slots, const char* cache_arg, const Tensor& cache) const {
  if (!reads_values()) return;
  const Values<int64_t> values(slots);
  const int64_t n = cache.size(0) * cache.size(1);
  for (int64_t i = 0; i < values.count; ++i) {
    if (values[i] >= n) fail(arg, "below the " + std::to_string(n) + " rows of " + cache_arg, at(values[i], i));
  }
}

void Check::pages(const char* arg, const Tensor& t, Axis& head_dim, const RowFormat& packed, ScalarType activations) {
  const bool bytes = t.defined() && t.scalar_type() == ScalarType::Byte;
  require(!bytes || activations == ScalarType::BFloat16, arg, "floating point: packed rows are for bfloat16",
          [&] { return describe(t) + " with " + dtype_name(activations); });
  Axis num_blocks("num_blocks"), block_size("block_size"), row_bytes("row_bytes", packed.row());
  if (bytes) {
    tensor(arg, t, kUint8, num_blocks, block_size, row_bytes);
  } else {
    tensor(arg, t, kFloating, num_blocks, block_size, head_dim);
  }
  positive((std::string(arg) + "'s block_size").c_str(), *block_size);
  require(t.stride(2) == 1 && (*block_size == 1 || t.stride(1) == t.size(2)), arg, "contiguous within a page",
          [&] { return "strides " + std::to_string(t.stride(1)) + ", " + std::to_string(t.stride(2)); });
}

void Check::written(const char* arg, const Tensor& t) const {
  const int64_t size = t.size(0) > 0 ? t.numel() / t.size(0) : 0;
  require(t.size(0) <= 1 || t.stride(0) >= size, arg, "free of overlap, as it is written", [&] {
    return std::to_string(t.size(0)) + " blocks of " + std::to_string(size) + " elements, " +
           std::to_string(t.stride(0)) + " apart";
  });
}

void Check::keys(const Tensor& t, Axis& head_dim, ScalarType activations) {
  const RowFormat fp4 = fp4_key_row(*head_dim), fp8 = fp8_key_row(*head_dim);
  const bool three = t.defined() && t.dim() == 3;
  const bool is_fp8 = three && t.size(2) == fp8.row();
  const bool packed = three && t.scalar_type() == ScalarType::Byte;
  const bool even = *head_dim % 2 == 0;  // FP4 has two values to a byte
  if (packed && !is_fp8 && !(even && t.size(2) == fp4.row())) {
    fail("keys",
         "packed rows of " + (even ? std::to_string(fp4.row()) + " (FP4) or " : "") + std::to_string(fp8.row()) +
             " (FP8) bytes",
         describe(t));
  }
  pages("keys", t, head_dim, is_fp8 ? fp8 : fp4, activations);
}

void Check::activation(const Tensor& x, const std::optional<Tensor>& x_scale, Axis& num_tokens, Axis& k) {
  tensor("x", x, x_scale ? kE4m3 : kFloating, num_tokens, k);
  tensor("x_scale", x_scale, kE8m0, num_tokens, Axis("ceil(k/128)", ceil_div(*k, 128)));
}

void check_weight(Check& check, const Weight& w, Axis* expert, Axis& rows, Axis& cols, bool fp4) {
  const ScalarType type = w.weight.defined() ? w.weight.scalar_type() : ScalarType::Undefined;
  const bool packed = fp4 && type == ScalarType::Char;
  const bool quantised = packed || type == ScalarType::Float8_e4m3fn;
  if (!quantised && !kFloating.has(type)) {
    check.fail(w.arg, fp4 ? "floating point, float8_e4m3fn or int8 (two FP4)" : "floating point or float8_e4m3fn",
               describe(w.weight));
  }
  if (w.scale.has_value() != quantised) {
    check.fail(w.scale_arg, quantised ? "given with a quantised weight" : "None with a floating point weight",
               describe(w.scale));
  }
  const auto with_expert = [&](const char* arg, const Tensor& t, const Dtypes& dtypes, Axis& a, Axis& b) {
    if (expert != nullptr) {
      check.tensor(arg, t, dtypes, *expert, a, b);
    } else {
      check.tensor(arg, t, dtypes, a, b);
    }
  };
  if (packed) {
    if (cols.bound()) check.require(*cols % 32 == 0, cols.name(), "a multiple of 32 for FP4 weights", *cols);
    Axis bytes = cols.bound() ? Axis("cols/2", *cols / 2) : Axis("cols/2");
    with_expert(w.arg, w.weight, kInt8, rows, bytes);
    cols.bind(*bytes * 2);
    check.require(*cols % 32 == 0, w.arg, "packed from rows of a multiple of 32 values", *cols);
    Axis groups("cols/32", *cols / 32);
    with_expert(w.scale_arg, *w.scale, kE8m0, rows, groups);
  } else {
    with_expert(w.arg, w.weight, quantised ? kE4m3 : kFloating, rows, cols);
    if (!quantised) return;
    Axis row_blocks("ceil(rows/128)", ceil_div(*rows, 128)), col_blocks("ceil(cols/128)", ceil_div(*cols, 128));
    with_expert(w.scale_arg, *w.scale, kE8m0, row_blocks, col_blocks);
  }
}

}  // namespace v4npu
