// The shape checks of check_<op>(): axes are bound by the first tensor that has them and compared ever after.
//
//   Check check("csa_attention");
//   Axis num_tokens("num_tokens"), topk("topk");
//   check.tensor("topk_indices", topk_indices, kInt32, num_tokens, topk);
//
// throws std::invalid_argument, which Python sees as ValueError:
//   v4npu.csa_attention: topk_indices must be int32 [num_tokens, topk], got int64 [8, 512]
//
// Of a device's tensors only metadata is read: a check must not make the host wait. Of the CPU's, the values of index
// tensors too, so that what a kernel follows exists.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>

#include "torch/csrc/stable/device.h"
#include "torch/csrc/stable/tensor.h"
#include "v4npu/arithmetic.h"
#include "v4npu/row_format.h"

namespace v4npu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Dtypes {
  const char* name;
  uint64_t mask;  // bit i = ScalarType i

  constexpr Dtypes(const char* name_, std::initializer_list<ScalarType> types) : name(name_), mask(0) {
    for (ScalarType type : types) mask |= uint64_t{1} << static_cast<int>(type);
  }
  constexpr bool has(ScalarType type) const { return mask >> static_cast<int>(type) & 1; }
};

inline constexpr Dtypes kFloating("floating point",
                                  {ScalarType::Float, ScalarType::Double, ScalarType::BFloat16, ScalarType::Half});
// Tensors that are float32 by contract; the float64 oracle carries them in float64.
inline constexpr Dtypes kFloat32("float32 or float64", {ScalarType::Float, ScalarType::Double});
inline constexpr Dtypes kFreqs("float32", {ScalarType::Float});
inline constexpr Dtypes kInt8("int8", {ScalarType::Char});
inline constexpr Dtypes kUint8("uint8", {ScalarType::Byte});
inline constexpr Dtypes kInt32("int32", {ScalarType::Int});
inline constexpr Dtypes kInt64("int64", {ScalarType::Long});
inline constexpr Dtypes kE4m3("float8_e4m3fn", {ScalarType::Float8_e4m3fn});
inline constexpr Dtypes kE8m0("float8_e8m0fnu", {ScalarType::Float8_e8m0fnu});

constexpr bool is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

class Axis {
 public:
  explicit Axis(const char* name) : name_(name) {}
  Axis(const char* name, int64_t size) : name_(name), size_(size) {}

  const char* name() const { return name_; }
  bool bound() const { return size_ >= 0; }
  int64_t operator*() const { return size_; }
  bool matches(int64_t size) const { return !bound() || size == size_; }
  void bind(int64_t size) { size_ = size; }

 private:
  const char* name_;
  int64_t size_ = -1;
};

// The values of an index tensor on the CPU, of one dim or of two.
template <class T>
struct Values {
  const T* data;
  int64_t count, apart, step;  // of the last dim, and elements from one row and column to the next

  explicit Values(const Tensor& t)
      : data(static_cast<const T*>(t.const_data_ptr())),
        count(t.size(t.dim() - 1)),
        apart(t.stride(0)),
        step(t.stride(t.dim() - 1)) {}
  T operator[](int64_t i) const { return data[i * step]; }
  T at(int64_t i, int64_t j) const { return data[i * apart + j * step]; }
};

// What an argument is, in a message: `float32 [8, 512]`, `None`, a number, a text.
std::string describe(const Tensor& t);
std::string describe(const std::optional<Tensor>& t);
std::string describe(std::integral auto number) { return std::to_string(number); }
std::string describe(double number);
inline std::string describe(const std::string& text) { return text; }

class Check {
 public:
  explicit Check(const char* op) : op_(op) {}

  // The whole shape.
  template <class... Axes>
  void tensor(const char* arg, const Tensor& t, const Dtypes& dtypes, Axes&&... axes) {
    tensor(arg, t, dtypes, /*leading=*/false, {&axes...});
  }
  template <class... Axes>
  void tensor(const char* arg, const std::optional<Tensor>& t, const Dtypes& dtypes, Axes&&... axes) {
    if (t) tensor(arg, *t, dtypes, /*leading=*/false, {&axes...});
  }
  // [..., axes]: any number of axes in front.
  template <class... Axes>
  void trailing(const char* arg, const Tensor& t, const Dtypes& dtypes, Axes&&... axes) {
    tensor(arg, t, dtypes, /*leading=*/true, {&axes...});
  }

  // freqs [rope_dim/2] against the last axis of `x`, of which the last rope_dim values turn.
  void rope(const char* arg, const Tensor& x, const Tensor& freqs);
  // cu_seqlens_q int32 [num_seqs+1], which rises from 0 to num_tokens, and start_pos int32 [num_seqs].
  void sequences(const Tensor& cu_seqlens_q, const Tensor& start_pos, Axis& num_seqs, const Axis& num_tokens);
  // x [num_tokens, k]: float8_e4m3fn with one scale per 128 columns, or floating point without.
  void activation(const Tensor& x, const std::optional<Tensor>& x_scale, Axis& num_tokens, Axis& k);

  // Pages [num_blocks, block_size, head_dim] of floating point rows, or packed uint8 [num_blocks, block_size, row
  // bytes] in `packed` format, which only bfloat16 activations have. Pages may lie apart, rows may not.
  void pages(const char* arg, const Tensor& t, Axis& head_dim, const RowFormat& packed, ScalarType activations);
  // [n, ...] that the call writes, contiguous within each of the n: no two of them share memory.
  void written(const char* arg, const Tensor& t) const;
  // Pages of index keys, which two formats pack: their rows differ in length.
  void keys(const Tensor& t, Axis& head_dim, ScalarType activations);

  // What every attention takes; positions [num_tokens] and freqs that turn q's like, or neither.
  struct Attention {
    const Tensor &q, &window_kv, &window_table, &cu_seqlens_q, &start_pos;
    const std::optional<Tensor>& attn_sink;
    int64_t window, rope_dim;
    const std::optional<Tensor>&positions, &freqs;
  };
  void attention(const Attention& a, Axis& num_tokens, Axis& head_dim, Axis& num_seqs);

  // What only values say; nothing where they lie on a device.
  struct Table {
    const char* arg;
    const Tensor& blocks;  // int32 [num_seqs, max_blocks]
    const char* pages_arg;
    const Tensor& pages;
    int64_t rows() const { return blocks.size(1) * pages.size(1); }  // of a sequence
  };
  struct Span {
    int64_t sequence, begin, end;  // of its tokens in the call
    int64_t start, total;          // tokens before the call, and after it
  };
  bool reads_values() const { return device_.type() == torch::headeronly::DeviceType::CPU && !stands_for_device(); }
  // Whether this thread's tensors, wherever they lie, are those of an emulated device.
  static bool& stands_for_device();
  // each(span) for every sequence that has tokens in the call.
  template <class Each>
  void each_sequence(const Tensor& cu_seqlens_q, const Tensor& start_pos, const Each& each) const {
    if (!reads_values()) return;
    const Values<int32_t> ends(cu_seqlens_q), starts(start_pos);
    for (int64_t b = 0; b < starts.count; ++b) {
      const int64_t begin = ends[b], end = ends[b + 1], start = starts[b];
      if (begin < end) each(Span{b, begin, end, start, start + end - begin});
    }
  }
  // The rows [first, last] of a sequence.
  void rows(const Table& table, int64_t sequence, int64_t first, int64_t last) const;
  // The rows that a sequence's tokens pick; negative ones are none.
  void picks(const Table& table, const char* arg, const Tensor& indices, const Span& span) const;
  // Slots of rows to store into `cache`; negative ones are none.
  void slots(const char* arg, const Tensor& slots, const char* cache_arg, const Tensor& cache) const;

  // For what a shape cannot say: `<arg> must be <expected>, got <got>`. Every call asks, and few tell: a text that has
  // to be put together is given as a function.
  template <class Got>
  void require(bool ok, const char* arg, const char* expected, const Got& got) const {
    if (ok) return;
    if constexpr (std::is_invocable_v<const Got&>) {
      fail(arg, expected, got());
    } else {
      fail(arg, expected, describe(got));
    }
  }
  // A length: loops run over it and products are made of it.
  void positive(const char* arg, int64_t value) const {
    require(value > 0, arg, "positive", value);
    require(value <= 1 << 20, arg, "at most 1048576", value);
  }
  // The bound of a clamp, as kernels hold it: they take a subnormal one for 0, which means none.
  void clamp(const char* arg, double limit) const;
  void dtype(const char* arg, ScalarType type, const Dtypes& dtypes) const;
  [[noreturn]] void fail(const char* arg, const std::string& expected, const std::string& got) const;

 private:
  void tensor(const char* arg, const Tensor& t, const Dtypes& dtypes, bool leading, std::initializer_list<Axis*> axes);

  const char* op_;
  const char* first_arg_ = nullptr;  // the tensor whose device the others must share
  torch::stable::Device device_{torch::headeronly::DeviceType::CPU};
};

// A weight matrix as it was given, and what its arguments are called.
struct Weight {
  const char* arg;
  const char* scale_arg;
  const Tensor& weight;
  const std::optional<Tensor>& scale;
};

// Checks one weight matrix [prefix..., rows, cols] with its scale. float: no scale. float8_e4m3fn: one float8_e8m0fnu
// scale per 128x128 block. int8 (two FP4 per byte along cols): one scale per row and 32 columns; only where fp4 is set.
// `expert`, when given, is the leading axis of both.
void check_weight(Check& check, const Weight& w, Axis* expert, Axis& rows, Axis& cols, bool fp4);

}  // namespace v4npu
