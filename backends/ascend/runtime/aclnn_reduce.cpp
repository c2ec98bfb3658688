// Functions along dimensions: reductions, scans, sorting, softmax, norm. A row is summed in order, in double.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "aclnn.h"

namespace v4npu::runtime {
namespace {

// v with `dims` (all, if there are none) last, joined into rows by whoever walks it.
struct Rows {
  View in;   // kept dimensions, then the reduced ones
  View out;  // kept dimensions
  int64_t length = 1;
};

Rows rows_of(const View& x, const Sizes& dims, bool keep, const View& out) {
  std::vector<bool> reduced(static_cast<size_t>(x.dim()), dims.empty());
  for (int64_t d : dims)
    if (x.dim() > 0) reduced[static_cast<size_t>(x.axis(d))] = true;
  Rows r;
  r.in = {x.data, x.type, {}, {}};
  Sizes expected, kept;
  for (const bool pass : {false, true}) {
    for (int64_t d = 0; d < x.dim(); ++d) {
      if (reduced[static_cast<size_t>(d)] != pass) continue;
      r.in.sizes.push_back(x.sizes[d]);
      r.in.strides.push_back(x.strides[d]);
      pass ? void(r.length *= x.sizes[d]) : kept.push_back(x.sizes[d]);
    }
  }
  r.out = {out.data, out.type, {}, {}};
  int64_t at = 0;
  for (int64_t d = 0; d < x.dim(); ++d) {
    const bool gone = reduced[static_cast<size_t>(d)];
    if (gone && !keep) continue;
    expected.push_back(gone ? 1 : x.sizes[d]);
    if (!gone && at < out.dim()) {
      r.out.sizes.push_back(x.sizes[d]);
      r.out.strides.push_back(out.strides[at]);
    }
    ++at;
  }
  require_sizes(out, expected);
  return r;
}

// f(const W* row, n) -> W for every row.
template <typename W, typename F>
void reduce(const Rows& r, F f) {
  const std::vector<W> in = gathered<W>(r.in);
  std::vector<W> out(static_cast<size_t>(r.out.numel()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = f(in.data() + static_cast<int64_t>(i) * r.length, r.length);
  scattered(r.out, out);
}

template <typename F>
Work reduction(const aclTensor* self, const Sizes& dims, bool keep, const aclTensor* out, F f, bool needs_one = false) {
  const View x = view(self), y = view(out);
  const Rows r = rows_of(x, dims, keep, y);
  require(!needs_one || r.length > 0 || r.out.numel() == 0, "an empty row has no such value");
  if (is_floating(x.type) || is_floating(y.type)) return [=] { reduce<double>(r, f); };
  return [=] { reduce<int64_t>(r, f); };
}

Sizes values_of(const aclIntArray* array) { return array == nullptr ? Sizes() : array->values; }

constexpr auto kSum = [](auto row, int64_t n) {
  return std::accumulate(row, row + n, std::decay_t<decltype(*row)>(0));
};
constexpr auto kProduct = [](auto row, int64_t n) {
  return std::accumulate(row, row + n, std::decay_t<decltype(*row)>(1), std::multiplies<>());
};

// Position of the largest or smallest element: the first of equals, a NaN before all others.
template <typename W>
int64_t best(const W* row, int64_t n, bool largest) {
  int64_t at = 0;
  for (int64_t i = 1; i < n && row[at] == row[at]; ++i)
    if (row[i] != row[i] || (largest ? row[i] > row[at] : row[i] < row[at])) at = i;
  return at;
}
template <bool largest>
constexpr auto kBest = [](auto row, int64_t n) { return row[best(row, n, largest)]; };
template <bool largest>
constexpr auto kArgBest =
    [](auto row, int64_t n) { return static_cast<std::decay_t<decltype(*row)>>(best(row, n, largest)); };

template <bool largest>
Work best_with_index(const aclTensor* self, int64_t dim, bool keep, const aclTensor* out, const aclTensor* indices) {
  Work values = reduction(self, {dim}, keep, out, kBest<largest>, true);
  Work places = reduction(self, {dim}, keep, indices, kArgBest<largest>, true);
  return [=] {
    places();
    values();
  };
}

// The rows of x and y along one dimension, both walked alike.
template <typename W, typename F>
void along(const View& x, int64_t dim, const View& y, F f) {
  const View in = transposed(x, dim, x.dim() - 1), out = transposed(y, dim, y.dim() - 1);
  std::vector<W> all = gathered<W>(in);
  const int64_t n = x.sizes[dim];
  for (int64_t i = 0; n > 0 && i < static_cast<int64_t>(all.size()); i += n) f(all.data() + i, n);
  scattered(out, all);
}

template <typename W>
std::vector<int64_t> order_of(const W* row, int64_t n, bool descending) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  // NaN counts as the largest, as in torch.
  auto less = [](W a, W b) { return a < b || (a == a && b != b); };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return descending ? less(row[b], row[a]) : less(row[a], row[b]); });
  return order;
}

// The first k of each row in order; all of it for a sort.
template <typename W>
void sort_rows(const View& x, int64_t dim, bool descending, const View& values, const View& indices) {
  const int64_t last = x.dim() - 1, n = x.sizes[dim], k = values.sizes[dim];
  const std::vector<W> in = gathered<W>(transposed(x, dim, last));
  std::vector<W> out;
  std::vector<int64_t> places;
  for (int64_t i = 0; n > 0 && i < static_cast<int64_t>(in.size()); i += n) {
    const std::vector<int64_t> order = order_of(in.data() + i, n, descending);
    for (int64_t j = 0; j < k; ++j) {
      out.push_back(in[static_cast<size_t>(i + order[static_cast<size_t>(j)])]);
      places.push_back(order[static_cast<size_t>(j)]);
    }
  }
  scattered(transposed(values, dim, last), out);
  scattered(transposed(indices, dim, last), places);
}

Work sorted(const aclTensor* self, int64_t dim, bool descending, const aclTensor* values, const aclTensor* indices) {
  View x = view(self), v = view(values), p = view(indices);
  if (x.dim() == 0) x.sizes = v.sizes = p.sizes = {1}, x.strides = v.strides = p.strides = {1};
  const int64_t axis = x.axis(dim);
  require(v.sizes == p.sizes, "values and indices must have the same sizes");
  require(v.sizes[axis] <= x.sizes[axis], "more elements asked for than there are");
  if (is_floating(x.type)) return [=] { sort_rows<double>(x, axis, descending, v, p); };
  return [=] { sort_rows<int64_t>(x, axis, descending, v, p); };
}

}  // namespace
}  // namespace v4npu::runtime

using namespace v4npu::runtime;

ACLNN(aclnnReduceSum)
(const aclTensor* self, const aclIntArray* dims, bool keep, int, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return reduction(self, values_of(dims), keep, out, kSum); });
}
ACLNN(aclnnMean)(const aclTensor* self, const aclIntArray* dims, bool keep, int, aclTensor* out, PLANNED) {
  return plan(HERE, [&] {
    return reduction(self, values_of(dims), keep, out, [](auto row, int64_t n) {
      return static_cast<std::decay_t<decltype(*row)>>(static_cast<double>(kSum(row, n)) / static_cast<double>(n));
    });
  });
}
ACLNN(aclnnProd)(const aclTensor* self, int, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return reduction(self, {}, false, out, kProduct); });
}
ACLNN(aclnnProdDim)(const aclTensor* self, int64_t dim, bool keep, int, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return reduction(self, {dim}, keep, out, kProduct); });
}
ACLNN(aclnnAmax)(const aclTensor* self, const aclIntArray* dims, bool keep, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return reduction(self, values_of(dims), keep, out, kBest<true>, true); });
}
ACLNN(aclnnAmin)(const aclTensor* self, const aclIntArray* dims, bool keep, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return reduction(self, values_of(dims), keep, out, kBest<false>, true); });
}
ACLNN(aclnnMax)(const aclTensor* self, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return reduction(self, {}, false, out, kBest<true>, true); });
}
ACLNN(aclnnMin)(const aclTensor* self, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return reduction(self, {}, false, out, kBest<false>, true); });
}
ACLNN(aclnnMaxDim)
(const aclTensor* self, int64_t dim, bool keep, aclTensor* out, aclTensor* indices, PLANNED) {
  return plan(HERE, [&] { return best_with_index<true>(self, dim, keep, out, indices); });
}
ACLNN(aclnnMinDim)
(const aclTensor* self, int64_t dim, bool keep, aclTensor* out, aclTensor* indices, PLANNED) {
  return plan(HERE, [&] { return best_with_index<false>(self, dim, keep, out, indices); });
}
ACLNN(aclnnArgMax)(const aclTensor* self, int64_t dim, bool keep, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return reduction(self, {dim}, keep, out, kArgBest<true>, true); });
}
ACLNN(aclnnArgMin)(const aclTensor* self, int64_t dim, bool keep, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return reduction(self, {dim}, keep, out, kArgBest<false>, true); });
}
ACLNN(aclnnAll)(const aclTensor* self, const aclIntArray* dims, bool keep, aclTensor* out, PLANNED) {
  return plan(HERE, [&] {
    return reduction(self, values_of(dims), keep, out, [](auto row, int64_t n) {
      return static_cast<std::decay_t<decltype(*row)>>(std::all_of(row, row + n, [](auto x) { return x != 0; }));
    });
  });
}
ACLNN(aclnnAny)(const aclTensor* self, const aclIntArray* dims, bool keep, aclTensor* out, PLANNED) {
  return plan(HERE, [&] {
    return reduction(self, values_of(dims), keep, out, [](auto row, int64_t n) {
      return static_cast<std::decay_t<decltype(*row)>>(std::any_of(row, row + n, [](auto x) { return x != 0; }));
    });
  });
}

ACLNN(aclnnCumsum)(const aclTensor* self, int64_t dim, int, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), y = view(out);
    require_sizes(y, x.sizes);
    const int64_t axis = x.axis(dim);
    const auto scan = [](auto row, int64_t n) { std::partial_sum(row, row + n, row); };
    if (x.dim() == 0) return [=] { map1<double>(y, x, [](double a) { return a; }); };
    if (is_floating(x.type) || is_floating(y.type)) return [=] { along<double>(x, axis, y, scan); };
    return [=] { along<int64_t>(x, axis, y, scan); };
  });
}

// The last of equals, as in torch; a NaN stays the largest.
ACLNN(aclnnCummax)(const aclTensor* self, int64_t dim, aclTensor* values, aclTensor* indices, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), v = view(values), p = view(indices);
    require_sizes(v, x.sizes);
    require_sizes(p, x.sizes);
    require(x.dim() > 0, "self must have a dimension");
    const int64_t axis = x.axis(dim);
    const auto scan = [](double* row, int64_t n, bool places) {
      double most = row[0], at = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (row[i] >= most || row[i] != row[i]) most = row[i], at = static_cast<double>(i);
        row[i] = places ? at : most;
      }
    };
    return [=] {
      along<double>(x, axis, p, [scan](double* row, int64_t n) { scan(row, n, true); });
      along<double>(x, axis, v, [scan](double* row, int64_t n) { scan(row, n, false); });
    };
  });
}

ACLNN(aclnnEqual)(const aclTensor* self, const aclTensor* other, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), y = view(other), z = view(out);
    require_sizes(z, {1});
    return [=] {
      const auto same = [&](auto zero) {
        using W = decltype(zero);
        return x.sizes == y.sizes && gathered<W>(x) == gathered<W>(y);
      };
      const bool real = is_floating(x.type) || is_floating(y.type);
      scattered(z, std::vector<int64_t>{real ? same(0.0) : same(int64_t{0})});
    };
  });
}

ACLNN(aclnnSoftmax)(const aclTensor* self, int64_t dim, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), y = view(out);
    require_sizes(y, x.sizes);
    require(x.dim() > 0, "self must have a dimension");
    const int64_t axis = x.axis(dim);
    return [=] {
      along<double>(x, axis, y, [](double* row, int64_t n) {
        const double most = row[best(row, n, true)];
        for (int64_t i = 0; i < n; ++i) row[i] = std::exp(row[i] - most);
        const double sum = kSum(row, n);
        for (int64_t i = 0; i < n; ++i) row[i] /= sum;
      });
    };
  });
}

// Over the last dimensions, those of gamma.
ACLNN(aclnnRmsNorm)
(const aclTensor* self, const aclTensor* gamma, double epsilon, aclTensor* out, aclTensor* rstd, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), g = view(gamma), y = view(out), r = view(rstd);
    const int64_t rest = x.dim() - g.dim();
    require(rest >= 0 && g.numel() > 0 && Sizes(x.sizes.begin() + rest, x.sizes.end()) == g.sizes,
            "gamma must have the last sizes of x");
    Sizes ones = x.sizes;
    std::fill(ones.begin() + rest, ones.end(), 1);
    require_sizes(y, x.sizes);
    require_sizes(r, ones);
    return [=] {
      std::vector<double> all = gathered<double>(x), inverses;
      const std::vector<double> factor = gathered<double>(g);
      const size_t n = factor.size();
      for (size_t row = 0; row < all.size(); row += n) {
        double squares = 0;
        for (size_t i = 0; i < n; ++i) squares += all[row + i] * all[row + i];
        inverses.push_back(1 / std::sqrt(squares / static_cast<double>(n) + epsilon));
        for (size_t i = 0; i < n; ++i) all[row + i] *= inverses.back() * factor[i];
      }
      scattered(y, all);
      scattered(r, inverses);
    };
  });
}

// Always stable; that is allowed where it is not asked for.
ACLNN(aclnnSort)
(const aclTensor* self, bool, int64_t dim, bool descending, aclTensor* values, aclTensor* indices, PLANNED) {
  return plan(HERE, [&] { return sorted(self, dim, descending, values, indices); });
}
ACLNN(aclnnTopk)
(const aclTensor* self, int64_t k, int64_t dim, bool largest, bool, aclTensor* values, aclTensor* indices, PLANNED) {
  return plan(HERE, [&] {
    const View v = view(values);
    require(v.dim() == 0 || v.sizes[v.axis(dim)] == k, "values must hold k elements along dim");
    return sorted(self, dim, largest, values, indices);
  });
}

ACLNN(aclnnUnique2)
(const aclTensor* self, bool, bool return_inverse, bool return_counts, aclTensor* values, aclTensor* inverse,
 aclTensor* counts, PLANNED) {
  return waiting(
      plan(HERE,
           [&]() -> Work {
             const View x = view(self), y = view(values), where = view(inverse), many = view(counts);
             require(!is_floating(x.type), std::string("only integers are emulated, got ") + name_of(x.type));
             return [=] {
               const std::vector<int64_t> all = gathered<int64_t>(x);
               std::vector<int64_t> distinct = all, places, numbers;
               std::sort(distinct.begin(), distinct.end());
               distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
               numbers.resize(distinct.size());
               for (int64_t value : all) {
                 places.push_back(std::lower_bound(distinct.begin(), distinct.end(), value) - distinct.begin());
                 ++numbers[static_cast<size_t>(places.back())];
               }
               const Sizes found{static_cast<int64_t>(distinct.size())};
               values->view.sizes = found;
               scattered(contiguous_like(y.data, y.type, found), distinct);
               if (return_inverse) scattered(where, places);
               if (return_counts) scattered(contiguous_like(many.data, many.type, found), numbers);
             };
           }),
      executor);
}
