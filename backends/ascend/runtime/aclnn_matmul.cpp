// Matrix products. Each element is a sum over k in order, in double, rounded once.
#include "aclnn.h"

namespace v4npu::runtime {
namespace {

// [..., m, k] x [..., k, n] -> [..., m, n], batch dimensions broadcast.
struct Product {
  View a, b, out;
  int64_t m, k, n;

  // out = alpha * a x b + beta * c
  void run(double alpha, double beta, const View* c) const {
    const std::vector<double> x = gathered<double>(a), y = gathered<double>(b);
    std::vector<double> z(static_cast<size_t>(out.numel()));
    const int64_t batches = m * n == 0 ? 0 : out.numel() / (m * n);
    for (int64_t batch = 0; batch < batches; ++batch) {
      for (int64_t i = 0; i < m; ++i) {
        double* sums = z.data() + (batch * m + i) * n;
        for (int64_t l = 0; l < k; ++l) {
          const double factor = x[static_cast<size_t>((batch * m + i) * k + l)];
          const double* row = y.data() + (batch * k + l) * n;
          for (int64_t j = 0; j < n; ++j) sums[j] += factor * row[j];
        }
      }
    }
    if (c != nullptr || alpha != 1) {
      const std::vector<double> added =
          c == nullptr || beta == 0 ? std::vector<double>(z.size()) : gathered<double>(*c);
      for (size_t i = 0; i < z.size(); ++i) z[i] = alpha * z[i] + beta * added[i];
    }
    scattered(out, z);
  }
};

Product product(const aclTensor* self, const aclTensor* other, const aclTensor* result) {
  View a = view(self), b = view(other), out = view(result);
  require(a.dim() >= 1 && b.dim() >= 1, "both operands must have a dimension");
  if (a.dim() == 1) {  // vectors: a row, a column, and a result without that dimension
    a.sizes.insert(a.sizes.begin(), 1), a.strides.insert(a.strides.begin(), 0);
    const int64_t at = out.dim() - (b.dim() == 1 ? 0 : 1);
    out.sizes.insert(out.sizes.begin() + at, 1), out.strides.insert(out.strides.begin() + at, 0);
  }
  if (b.dim() == 1) {
    b.sizes.push_back(1), b.strides.push_back(0);
    out.sizes.push_back(1), out.strides.push_back(0);
  }
  Product p;
  p.m = a.sizes[a.dim() - 2], p.k = a.sizes[a.dim() - 1], p.n = b.sizes[b.dim() - 1];
  require(b.sizes[b.dim() - 2] == p.k, "the inner sizes differ");
  require(out.dim() >= 2 && out.sizes[out.dim() - 2] == p.m && out.sizes[out.dim() - 1] == p.n,
          "the result has other sizes");
  require(is_floating(a.type) && is_floating(b.type), "operands must be floating point");
  Sizes batch(out.sizes.begin(), out.sizes.end() - 2);
  const auto extended = [&](const View& v, int64_t rows, int64_t columns) {
    Sizes sizes = batch;
    sizes.push_back(rows), sizes.push_back(columns);
    return broadcast(v, sizes);
  };
  p.a = extended(a, p.m, p.k);
  p.b = extended(b, p.k, p.n);
  p.out = out;
  return p;
}

Work add_product(const aclTensor* self, const aclTensor* a, const aclTensor* b, const aclScalar* beta,
                 const aclScalar* alpha, const aclTensor* out) {
  const Product p = product(a, b, out);
  const View c = broadcast(view(self), p.out.sizes);
  const double by = beta->real, times = alpha->real;
  return [=] { p.run(times, by, &c); };
}

}  // namespace
}  // namespace v4npu::runtime

using namespace v4npu::runtime;

#define PRODUCT(name)                                                                           \
  ACLNN(name)(const aclTensor* self, const aclTensor* other, aclTensor* out, int8_t, PLANNED) { \
    return plan(HERE, [&]() -> Work {                                                           \
      const Product p = product(self, other, out);                                              \
      return [=] { p.run(1, 0, nullptr); };                                                     \
    });                                                                                         \
  }
PRODUCT(aclnnMatmul)
PRODUCT(aclnnMm)
PRODUCT(aclnnBatchMatMul)

#define ADD_PRODUCT(name)                                                                           \
  ACLNN(name)(const aclTensor* self, const aclTensor* a, const aclTensor* b, const aclScalar* beta, \
              const aclScalar* alpha, aclTensor* out, int8_t, PLANNED) {                            \
    return plan(HERE, [&] { return add_product(self, a, b, beta, alpha, out); });                   \
  }
ADD_PRODUCT(aclnnAddmm)
ADD_PRODUCT(aclnnBaddbmm)
