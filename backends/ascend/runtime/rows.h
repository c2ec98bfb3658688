// Elements of every type, read and written a row at a time as double or int64_t.
//
// All arithmetic of the aclnn functions is done in these two: a floating-point result is rounded once, to its own type,
// and an integer wraps when it is stored.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "tensor.h"
#include "v4npu/formats.h"

namespace v4npu::runtime {

template <typename T>
struct Plain {
  using Raw = T;
  template <typename W>
  static W decode(Raw raw) {
    return static_cast<W>(raw);
  }
  template <typename W>
  static Raw encode(W value) {
    if constexpr (std::is_same_v<W, double> && std::is_integral_v<T>) {  // out of range: as a 64-bit conversion wraps
      if (!(value > -0x1p63 && value < 0x1p63)) return static_cast<Raw>(std::numeric_limits<int64_t>::min());
      return static_cast<Raw>(static_cast<int64_t>(value));
    } else {
      return static_cast<Raw>(value);
    }
  }
};

struct Bool {
  using Raw = uint8_t;
  template <typename W>
  static W decode(Raw raw) {
    return static_cast<W>(raw != 0);
  }
  template <typename W>
  static Raw encode(W value) {
    return value != 0;
  }
};

// To float with ties broken as if in one step: a double that is not a float is moved off the midpoint of the narrower
// type by its last bit (round to odd).
inline float to_odd(double value) {
  float near = static_cast<float>(value);
  if (static_cast<double>(near) == value || !std::isfinite(near)) return near;
  uint32_t bits = float_bits(near);
  const bool away = std::fabs(static_cast<double>(near)) > std::fabs(value);
  if (away) bits -= 1;  // towards zero
  return bits_float(bits | 1);
}

struct Bf16 {
  using Raw = uint16_t;
  template <typename W>
  static W decode(Raw raw) {
    return static_cast<W>(bf16_decode(raw));
  }
  template <typename W>
  static Raw encode(W value) {
    return bf16_encode(to_odd(static_cast<double>(value)));
  }
};

struct Fp16 {
  using Raw = uint16_t;
  template <typename W>
  static W decode(Raw raw) {
    const int exponent = raw >> 10 & 31, fraction = raw & 1023;
    double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    if (exponent == 31) magnitude = fraction == 0 ? HUGE_VAL : std::nan("");
    return static_cast<W>(raw >> 15 ? -magnitude : magnitude);
  }
  template <typename W>
  static Raw encode(W wide) {
    const double value = static_cast<double>(wide), magnitude = std::fabs(value);
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return sign | 0x7E00;
    if (magnitude >= 65520) return sign | 0x7C00;
    if (magnitude < 0x1p-14) return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
    const int exponent = std::ilogb(magnitude);
    const auto scaled = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));  // 1024..2048
    return static_cast<uint16_t>(sign | ((static_cast<uint32_t>(exponent + 15) << 10) + (scaled - 1024)));
  }
};

struct E4m3 {
  using Raw = uint8_t;
  template <typename W>
  static W decode(Raw raw) {
    return static_cast<W>(e4m3_decode(raw));
  }
  template <typename W>
  static Raw encode(W value) {
    return e4m3_encode(to_odd(static_cast<double>(value)));
  }
};

// Powers of two are the only values that its contract stores.
struct E8m0 {
  using Raw = uint8_t;
  template <typename W>
  static W decode(Raw raw) {
    return static_cast<W>(e8m0_decode(raw));
  }
  template <typename W>
  static Raw encode(W value) {
    if (std::isnan(static_cast<double>(value))) return 255;
    const int exponent = std::ilogb(static_cast<double>(value)) + kE8m0Bias;
    require(e8m0_decode(static_cast<uint8_t>(exponent)) == static_cast<double>(value),
            "only powers of two are stored as float8_e8m0");
    return static_cast<uint8_t>(exponent);
  }
};

template <typename Body>
void with_codec(DataType type, Body body) {
  switch (type) {
    case ACL_FLOAT: return body(Plain<float>());
    case ACL_DOUBLE: return body(Plain<double>());
    case ACL_FLOAT16: return body(Fp16());
    case ACL_BF16: return body(Bf16());
    case ACL_FLOAT8_E4M3FN: return body(E4m3());
    case ACL_FLOAT8_E8M0: return body(E8m0());
    case ACL_BOOL: return body(Bool());
    case ACL_INT8: return body(Plain<int8_t>());
    case ACL_UINT8: return body(Plain<uint8_t>());
    case ACL_INT16: return body(Plain<int16_t>());
    case ACL_UINT16: return body(Plain<uint16_t>());
    case ACL_INT32: return body(Plain<int32_t>());
    case ACL_UINT32: return body(Plain<uint32_t>());
    case ACL_INT64: return body(Plain<int64_t>());
    case ACL_UINT64: return body(Plain<uint64_t>());
  }
  throw Error(ACL_ERROR_UNSUPPORTED_DATA_TYPE, "aclDataType " + std::to_string(type) + " is not emulated");
}

// n elements, `stride` elements apart.
template <typename W>
void load_row(DataType type, const char* from, int64_t stride, int64_t n, W* to) {
  with_codec(type, [&](auto codec) {
    using Codec = decltype(codec);
    const auto* raw = reinterpret_cast<const typename Codec::Raw*>(from);
    for (int64_t i = 0; i < n; ++i) to[i] = Codec::template decode<W>(raw[i * stride]);
  });
}
template <typename W>
void store_row(DataType type, char* to, int64_t stride, int64_t n, const W* from) {
  with_codec(type, [&](auto codec) {
    using Codec = decltype(codec);
    auto* raw = reinterpret_cast<typename Codec::Raw*>(to);
    for (int64_t i = 0; i < n; ++i) raw[i * stride] = Codec::template encode<W>(from[i]);
  });
}

// Calls body(offsets in bytes of each view, row length) for the rows of views of the same sizes; a row is what the last
// dimension holds, after dimensions have been joined where every view allows it.
template <size_t N, typename Body>
void for_rows(const View* const (&views)[N], Body body) {
  Sizes sizes;
  std::vector<Sizes> strides(N);  // in bytes
  const View& first = *views[0];
  for (int64_t d = 0; d < first.dim(); ++d) {
    if (first.sizes[d] == 0) return;
    if (first.sizes[d] == 1) continue;
    bool joins = !sizes.empty();
    for (size_t v = 0; v < N && joins; ++v)
      joins = strides[v].back() == views[v]->strides[d] * first.sizes[d] * item_size(views[v]->type);
    for (size_t v = 0; v < N; ++v) {
      const int64_t stride = views[v]->strides[d] * item_size(views[v]->type);
      joins ? void(strides[v].back() = stride) : strides[v].push_back(stride);
    }
    joins ? void(sizes.back() *= first.sizes[d]) : sizes.push_back(first.sizes[d]);
  }
  if (sizes.empty()) {
    sizes.push_back(1);
    for (Sizes& s : strides) s.push_back(0);
  }
  const int64_t outer = static_cast<int64_t>(sizes.size()) - 1;
  Sizes index(outer, 0);
  int64_t offsets[N] = {}, row_strides[N];
  for (size_t v = 0; v < N; ++v) row_strides[v] = strides[v][outer] / item_size(views[v]->type);
  for (;;) {
    body(offsets, row_strides, sizes[outer]);
    int64_t d = outer - 1;
    for (; d >= 0; --d) {
      for (size_t v = 0; v < N; ++v) offsets[v] += strides[v][d];
      if (++index[d] < sizes[d]) break;
      for (size_t v = 0; v < N; ++v) offsets[v] -= strides[v][d] * sizes[d];
      index[d] = 0;
    }
    if (d < 0) return;
  }
}

constexpr int64_t kRow = 1024;  // elements handled at a time

// out[i] = f(in[i]...): f(W) -> W over views of the same sizes.
template <typename W, typename F>
void map1(const View& out, const View& a, F f) {
  const View* const views[] = {&out, &a};
  for_rows(views, [&](const int64_t* at, const int64_t* stride, int64_t n) {
    W row[kRow];
    for (int64_t i = 0; i < n; i += kRow) {
      const int64_t count = std::min(kRow, n - i);
      load_row(a.type, a.data + at[1] + i * stride[1] * item_size(a.type), stride[1], count, row);
      for (int64_t j = 0; j < count; ++j) row[j] = f(row[j]);
      store_row(out.type, out.data + at[0] + i * stride[0] * item_size(out.type), stride[0], count, row);
    }
  });
}

// Converted where the types differ, bit by bit where they do not.
inline void copy_view(const View& to, const View& from) {
  const auto same = [](auto a) { return a; };
  if (to.type == from.type) {
    const auto bytes = item_size(to.type);
    View a = to, b = from;
    a.type = b.type = bytes == 1 ? ACL_INT8 : bytes == 2 ? ACL_INT16 : bytes == 4 ? ACL_INT32 : ACL_INT64;
    return map1<int64_t>(a, b, same);
  }
  is_floating(to.type) || is_floating(from.type) ? map1<double>(to, from, same) : map1<int64_t>(to, from, same);
}

inline void fill_view(const View& to, const aclScalar& value) {
  if (is_floating(to.type))
    map1<double>(to, to, [&](double) { return value.real; });
  else
    map1<int64_t>(to, to, [&](int64_t) { return value.integer; });
}

template <typename W, typename F>
void map2(const View& out, const View& a, const View& b, F f) {
  const View* const views[] = {&out, &a, &b};
  for_rows(views, [&](const int64_t* at, const int64_t* stride, int64_t n) {
    W x[kRow], y[kRow];
    for (int64_t i = 0; i < n; i += kRow) {
      const int64_t count = std::min(kRow, n - i);
      load_row(a.type, a.data + at[1] + i * stride[1] * item_size(a.type), stride[1], count, x);
      load_row(b.type, b.data + at[2] + i * stride[2] * item_size(b.type), stride[2], count, y);
      for (int64_t j = 0; j < count; ++j) x[j] = f(x[j], y[j]);
      store_row(out.type, out.data + at[0] + i * stride[0] * item_size(out.type), stride[0], count, x);
    }
  });
}
template <typename W, typename F>
void map3(const View& out, const View& a, const View& b, const View& c, F f) {
  const View* const views[] = {&out, &a, &b, &c};
  for_rows(views, [&](const int64_t* at, const int64_t* stride, int64_t n) {
    W x[kRow], y[kRow], z[kRow];
    for (int64_t i = 0; i < n; i += kRow) {
      const int64_t count = std::min(kRow, n - i);
      load_row(a.type, a.data + at[1] + i * stride[1] * item_size(a.type), stride[1], count, x);
      load_row(b.type, b.data + at[2] + i * stride[2] * item_size(b.type), stride[2], count, y);
      load_row(c.type, c.data + at[3] + i * stride[3] * item_size(c.type), stride[3], count, z);
      for (int64_t j = 0; j < count; ++j) x[j] = f(x[j], y[j], z[j]);
      store_row(out.type, out.data + at[0] + i * stride[0] * item_size(out.type), stride[0], count, x);
    }
  });
}

// Every element in row-major order, widened.
template <typename W>
std::vector<W> gathered(const View& v) {
  std::vector<W> all(static_cast<size_t>(v.numel()));
  const View* const views[] = {&v};
  int64_t done = 0;
  for_rows(views, [&](const int64_t* at, const int64_t* stride, int64_t n) {
    load_row(v.type, v.data + at[0], stride[0], n, all.data() + done);
    done += n;
  });
  return all;
}
template <typename W>
void scattered(const View& v, const std::vector<W>& all) {
  const View* const views[] = {&v};
  int64_t done = 0;
  for_rows(views, [&](const int64_t* at, const int64_t* stride, int64_t n) {
    store_row(v.type, v.data + at[0], stride[0], n, all.data() + done);
    done += n;
  });
}

}  // namespace v4npu::runtime
