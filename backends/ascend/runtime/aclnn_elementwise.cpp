// Functions of one, two or three elements. Operands are broadcast to the result; a result of another type is converted.
#include <algorithm>
#include <cmath>

#include "aclnn.h"

namespace v4npu::runtime {
namespace {

template <typename W>
W value_of(const aclScalar& scalar) {
  if constexpr (std::is_same_v<W, double>)
    return scalar.real;
  else
    return scalar.integer;
}

bool real(std::initializer_list<DataType> types) { return std::any_of(types.begin(), types.end(), is_floating); }

// f takes double if an operand or the result is floating, else int64_t.
template <typename F>
Work unary(const aclTensor* self, const aclTensor* out, F f) {
  const View y = view(out), x = broadcast(view(self), y.sizes);
  if (real({x.type, y.type})) return [=] { map1<double>(y, x, f); };
  return [=] { map1<int64_t>(y, x, f); };
}

// A result of type bool says nothing about the type of the arithmetic.
template <typename F>
Work binary(const aclTensor* self, const aclTensor* other, const aclTensor* out, F f) {
  const View z = view(out), x = broadcast(view(self), z.sizes), y = broadcast(view(other), z.sizes);
  if (real({x.type, y.type, z.type})) return [=] { map2<double>(z, x, y, f); };
  return [=] { map2<int64_t>(z, x, y, f); };
}
template <typename F>
Work binary(const aclTensor* self, const aclScalar* other, const aclTensor* out, F f) {
  require(other != nullptr, "a scalar is missing");
  const View z = view(out), x = broadcast(view(self), z.sizes);
  const aclScalar s = *other;
  if (real({x.type, s.type, z.type})) return [=] { map1<double>(z, x, [&](double a) { return f(a, s.real); }); };
  return [=] { map1<int64_t>(z, x, [&](int64_t a) { return f(a, s.integer); }); };
}

// a + alpha * b in the type of the arithmetic.
struct AddScaled {
  aclScalar alpha;
  double sign;
  double operator()(double a, double b) const { return a + sign * alpha.real * b; }
  int64_t operator()(int64_t a, int64_t b) const {
    const uint64_t scaled = static_cast<uint64_t>(alpha.integer) * static_cast<uint64_t>(b);  // wraps
    return static_cast<int64_t>(static_cast<uint64_t>(a) + (sign < 0 ? -scaled : scaled));
  }
};

constexpr auto kMul = [](auto a, auto b) {
  if constexpr (std::is_same_v<decltype(a), double>)
    return a * b;
  else
    return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
};

double floor_div(double a, double b) { return std::floor(a / b); }
int64_t floor_div(int64_t a, int64_t b) {
  require(b != 0, "division by zero");
  const int64_t q = a / b;
  return q - (a % b != 0 && (a < 0) != (b < 0));
}
constexpr auto kFloorDivide = [](auto a, auto b) { return floor_div(a, b); };

// Remainder with the sign of the divisor.
double modulo(double a, double b) {
  const double r = std::fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
int64_t modulo(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }
constexpr auto kRemainder = [](auto a, auto b) { return modulo(a, b); };

// mode: 0 true quotient, 1 towards zero, 2 towards minus infinity
struct Divide {
  int mode;
  double operator()(double a, double b) const {
    return mode == 0 ? a / b : mode == 1 ? std::trunc(a / b) : std::floor(a / b);
  }
  int64_t operator()(int64_t a, int64_t b) const {
    require(b != 0, "division by zero");
    return mode == 2 ? floor_div(a, b) : a / b;
  }
};

double power(double a, double b) { return std::pow(a, b); }
int64_t power(int64_t a, int64_t b) {
  uint64_t result = 1, base = static_cast<uint64_t>(a);
  if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 != 0 ? -1 : 1) : 0;
  for (; b > 0; b >>= 1, base *= base)
    if (b & 1) result *= base;
  return static_cast<int64_t>(result);
}
constexpr auto kPower = [](auto a, auto b) { return power(a, b); };

// NaN wins, as in torch.
constexpr auto kMax = [](auto a, auto b) { return a != a || a > b ? a : b; };
constexpr auto kMin = [](auto a, auto b) { return a != a || a < b ? a : b; };

int64_t bits(int64_t a) { return a; }
int64_t bits(double) { throw Error(ACL_ERROR_UNSUPPORTED_DATA_TYPE, "operands must be integers or bool"); }
constexpr auto kAnd = [](auto a, auto b) { return static_cast<decltype(a)>(bits(a) & bits(b)); };
constexpr auto kOr = [](auto a, auto b) { return static_cast<decltype(a)>(bits(a) | bits(b)); };
constexpr auto kXor = [](auto a, auto b) { return static_cast<decltype(a)>(bits(a) ^ bits(b)); };
constexpr auto kShl = [](auto a, auto b) { return static_cast<decltype(a)>(bits(b) > 63 ? 0 : bits(a) << bits(b)); };
constexpr auto kShr = [](auto a, auto b) { return static_cast<decltype(a)>(bits(a) >> (bits(b) > 63 ? 63 : bits(b))); };

Work clamp(const aclTensor* self, const aclScalar* low, const aclScalar* high, const aclTensor* out) {
  const View y = view(out), x = broadcast(view(self), y.sizes);
  const bool has_low = low != nullptr, has_high = high != nullptr;
  const aclScalar lo = has_low ? *low : aclScalar{}, hi = has_high ? *high : aclScalar{};
  const bool is_real =
      real({x.type, y.type}) || (has_low && is_floating(lo.type)) || (has_high && is_floating(hi.type));
  auto run = [=](auto zero) {
    using W = decltype(zero);
    map1<W>(y, x, [&](W a) {
      if (has_low && a < value_of<W>(lo)) a = value_of<W>(lo);
      return has_high && a > value_of<W>(hi) ? value_of<W>(hi) : a;
    });
  };
  if (is_real) return [=] { run(0.0); };
  return [=] { run(int64_t{0}); };
}

Work masked_fill(const aclTensor* self, const aclTensor* mask, const aclScalar& value) {
  const View x = view(self), m = broadcast(view(mask), x.sizes);
  if (is_floating(x.type))
    return [=] { map2<double>(x, x, m, [&](double a, double b) { return b != 0 ? value.real : a; }); };
  return [=] { map2<int64_t>(x, x, m, [&](int64_t a, int64_t b) { return b != 0 ? value.integer : a; }); };
}

Work copy(const aclTensor* source, const aclTensor* out) {
  const View y = view(out), x = broadcast(view(source), y.sizes);
  return [=] { copy_view(y, x); };
}

aclScalar constant(double value) { return {ACL_DOUBLE, value, static_cast<int64_t>(value)}; }

Work fill(const aclTensor* self, const aclScalar& value) {
  const View x = view(self);
  return [=] { fill_view(x, value); };
}

}  // namespace
}  // namespace v4npu::runtime

using namespace v4npu::runtime;

// Functions of x, a double or, where they keep integers, also an int64_t.
#define UNARY(name, ...)                                               \
  ACLNN(aclnn##name)(const aclTensor* self, aclTensor* out, PLANNED) { \
    return plan(HERE, [&] { return unary(self, out, __VA_ARGS__); });  \
  }                                                                    \
  ACLNN(aclnnInplace##name)(aclTensor * self, PLANNED) {               \
    return plan(HERE, [&] { return unary(self, self, __VA_ARGS__); }); \
  }
#define REAL(name, expression)                   \
  UNARY(name, [](auto a) {                       \
    const double x = static_cast<double>(a);     \
    return static_cast<decltype(a)>(expression); \
  })

REAL(Exp, std::exp(x))
REAL(Exp2, std::exp2(x))
REAL(Expm1, std::expm1(x))
REAL(Log, std::log(x))
REAL(Log2, std::log2(x))
REAL(Log1p, std::log1p(x))
REAL(Sqrt, std::sqrt(x))
REAL(Rsqrt, 1 / std::sqrt(x))
REAL(Reciprocal, 1 / x)
REAL(Sin, std::sin(x))
REAL(Cos, std::cos(x))
REAL(Tanh, std::tanh(x))
REAL(Erf, std::erf(x))
REAL(Sigmoid, 1 / (1 + std::exp(-x)))
REAL(Silu, x / (1 + std::exp(-x)))
REAL(Floor, std::floor(x))
REAL(Ceil, std::ceil(x))
REAL(Trunc, std::trunc(x))
REAL(Round, std::nearbyint(x))
UNARY(Neg, [](auto a) { return static_cast<decltype(a)>(-a); })
UNARY(Abs, [](auto a) { return static_cast<decltype(a)>(std::abs(a)); })
UNARY(Relu, [](auto a) { return a != a || a > 0 ? a : static_cast<decltype(a)>(0); })
UNARY(Sign, [](auto a) { return a != a ? a : static_cast<decltype(a)>((a > 0) - (a < 0)); })
UNARY(BitwiseNot,
      [is_bool = self->view.type == ACL_BOOL](auto a) { return static_cast<decltype(a)>(is_bool ? a == 0 : ~bits(a)); })
UNARY(LogicalNot, [](auto a) { return static_cast<decltype(a)>(a == 0); })
UNARY(Signbit, [](auto a) { return static_cast<decltype(a)>(std::signbit(static_cast<double>(a))); })
UNARY(IsFinite, [](auto a) { return static_cast<decltype(a)>(std::isfinite(static_cast<double>(a))); })
UNARY(IsInf, [](auto a) { return static_cast<decltype(a)>(std::isinf(static_cast<double>(a))); })

#define BINARY_(name, Other, ...)                                                          \
  ACLNN(aclnn##name)(const aclTensor* self, const Other* other, aclTensor* out, PLANNED) { \
    return plan(HERE, [&] { return binary(self, other, out, __VA_ARGS__); });              \
  }                                                                                        \
  ACLNN(aclnnInplace##name)(aclTensor * self, const Other* other, PLANNED) {               \
    return plan(HERE, [&] { return binary(self, other, self, __VA_ARGS__); });             \
  }
#define BINARY(tensor_name, scalar_name, ...)  \
  BINARY_(tensor_name, aclTensor, __VA_ARGS__) \
  BINARY_(scalar_name, aclScalar, __VA_ARGS__)
#define COMPARE(name, operation) \
  BINARY(name##Tensor, name##Scalar, [](auto a, auto b) { return static_cast<decltype(a)>(a operation b); })

BINARY(Mul, Muls, kMul)
BINARY(Div, Divs, Divide{0})
BINARY(FloorDivide, FloorDivides, kFloorDivide)
BINARY(RemainderTensorTensor, RemainderTensorScalar, kRemainder)
BINARY(PowTensorTensor, PowTensorScalar, kPower)
BINARY(BitwiseAndTensor, BitwiseAndScalar, kAnd)
BINARY(BitwiseOrTensor, BitwiseOrScalar, kOr)
BINARY(BitwiseXorTensor, BitwiseXorScalar, kXor)
BINARY(LeftShift, LeftShifts, kShl)
BINARY(RightShift, RightShifts, kShr)
BINARY(ClampMinTensor, ClampMin, kMax)
BINARY(ClampMaxTensor, ClampMax, kMin)
COMPARE(Eq, ==)
COMPARE(Ne, !=)
COMPARE(Lt, <)
COMPARE(Le, <=)
COMPARE(Gt, >)
COMPARE(Ge, >=)
BINARY_(Maximum, aclTensor, kMax)
BINARY_(Minimum, aclTensor, kMin)
BINARY_(LogicalAnd, aclTensor, [](auto a, auto b) { return static_cast<decltype(a)>(a != 0 && b != 0); })
BINARY_(LogicalOr, aclTensor, [](auto a, auto b) { return static_cast<decltype(a)>(a != 0 || b != 0); })
BINARY_(LogicalXor, aclTensor, [](auto a, auto b) { return static_cast<decltype(a)>((a != 0) != (b != 0)); })

#define ADD(name, Other, sign)                                                                                     \
  ACLNN(aclnn##name)(const aclTensor* self, const Other* other, const aclScalar* alpha, aclTensor* out, PLANNED) { \
    return plan(HERE, [&] { return binary(self, other, out, AddScaled{*alpha, sign}); });                          \
  }                                                                                                                \
  ACLNN(aclnnInplace##name)(aclTensor * self, const Other* other, const aclScalar* alpha, PLANNED) {               \
    return plan(HERE, [&] { return binary(self, other, self, AddScaled{*alpha, sign}); });                         \
  }
ADD(Add, aclTensor, 1)
ADD(Adds, aclScalar, 1)
ADD(Sub, aclTensor, -1)
ADD(Subs, aclScalar, -1)

// alpha * other is taken from self: other - alpha * self with the operands exchanged.
ACLNN(aclnnRsubs)(const aclTensor* self, const aclScalar* other, const aclScalar* alpha, aclTensor* out, PLANNED) {
  return plan(HERE, [&] {
    const AddScaled f{*alpha, -1};
    return binary(self, other, out, [f](auto a, auto b) { return f(b, a); });
  });
}
ACLNN(aclnnRsub)(const aclTensor* self, const aclTensor* other, const aclScalar* alpha, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return binary(other, self, out, AddScaled{*alpha, -1}); });
}

#define DIV_MOD(name, Other)                                                                         \
  ACLNN(aclnn##name)(const aclTensor* self, const Other* other, int mode, aclTensor* out, PLANNED) { \
    return plan(HERE, [&] { return binary(self, other, out, Divide{mode}); });                       \
  }                                                                                                  \
  ACLNN(aclnnInplace##name)(aclTensor * self, const Other* other, int mode, PLANNED) {               \
    return plan(HERE, [&] { return binary(self, other, self, Divide{mode}); });                      \
  }
DIV_MOD(DivMod, aclTensor)
DIV_MOD(DivMods, aclScalar)

ACLNN(aclnnPowScalarTensor)(const aclScalar* self, const aclTensor* exponent, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return binary(exponent, self, out, [](auto a, auto b) { return power(b, a); }); });
}

ACLNN(aclnnClamp)(const aclTensor* self, const aclScalar* low, const aclScalar* high, aclTensor* out, PLANNED) {
  return plan(HERE, [&] { return clamp(self, low, high, out); });
}
ACLNN(aclnnInplaceClamp)(aclTensor* self, const aclScalar* low, const aclScalar* high, PLANNED) {
  return plan(HERE, [&] { return clamp(self, low, high, self); });
}

ACLNN(aclnnSoftplus)
(const aclTensor* self, const aclScalar* beta, const aclScalar* threshold, aclTensor* out, PLANNED) {
  return plan(HERE, [&] {
    const double b = beta->real, limit = threshold->real;
    return unary(self, out, [b, limit](auto a) {
      const double x = static_cast<double>(a) * b;
      return static_cast<decltype(a)>(x > limit ? static_cast<double>(a) : std::log1p(std::exp(x)) / b);
    });
  });
}

ACLNN(aclnnIsClose)
(const aclTensor* self, const aclTensor* other, double rtol, double atol, bool equal_nan, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View z = view(out), x = broadcast(view(self), z.sizes), y = broadcast(view(other), z.sizes);
    return [=] {
      map2<double>(z, x, y, [=](double a, double b) {
        if (a == b || (equal_nan && a != a && b != b)) return 1.0;
        return std::isfinite(b) && std::fabs(a - b) <= atol + rtol * std::fabs(b) ? 1.0 : 0.0;
      });
    };
  });
}

ACLNN(aclnnSWhere)
(const aclTensor* condition, const aclTensor* self, const aclTensor* other, aclTensor* out, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View y = view(out), c = broadcast(view(condition), y.sizes), a = broadcast(view(self), y.sizes),
               b = broadcast(view(other), y.sizes);
    const auto choose = [](auto which, auto yes, auto no) { return which != 0 ? yes : no; };
    if (real({a.type, b.type, y.type})) return [=] { map3<double>(y, c, a, b, choose); };
    return [=] { map3<int64_t>(y, c, a, b, choose); };
  });
}

ACLNN(aclnnInplaceMaskedFillScalar)(aclTensor* self, const aclTensor* mask, const aclScalar* value, PLANNED) {
  return plan(HERE, [&] { return masked_fill(self, mask, *value); });
}
ACLNN(aclnnInplaceMaskedFillTensor)(aclTensor* self, const aclTensor* mask, const aclTensor* value, PLANNED) {
  return plan(HERE, [&]() -> Work {
    const View x = view(self), m = broadcast(view(mask), x.sizes), v = broadcast(view(value), x.sizes);
    const auto choose = [](auto which, auto yes, auto no) { return which != 0 ? yes : no; };
    if (is_floating(x.type)) return [=] { map3<double>(x, m, v, x, choose); };
    return [=] { map3<int64_t>(x, m, v, x, choose); };
  });
}

ACLNN(aclnnInplaceFillScalar)(aclTensor* self, const aclScalar* value, PLANNED) {
  return plan(HERE, [&] { return fill(self, *value); });
}
ACLNN(aclnnInplaceFillTensor)(aclTensor* self, const aclTensor* value, PLANNED) {
  return plan(HERE, [&] { return copy(value, self); });
}
ACLNN(aclnnInplaceZero)(aclTensor* self, PLANNED) {
  return plan(HERE, [&] { return fill(self, constant(0)); });
}
ACLNN(aclnnInplaceOne)(aclTensor* self, PLANNED) {
  return plan(HERE, [&] { return fill(self, constant(1)); });
}

ACLNN(aclnnInplaceCopy)(aclTensor* self, const aclTensor* source, PLANNED) {
  return plan(HERE, [&] { return copy(source, self); });
}
ACLNN(aclnnCast)(const aclTensor* self, int type, aclTensor* out, PLANNED) {
  return plan(HERE, [&] {
    require(out->view.type == type, std::string("the result must be ") + name_of(static_cast<DataType>(type)));
    return copy(self, out);
  });
}
