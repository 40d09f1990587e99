#pragma once
/// Exact derivatives by forward-mode differentiation: a number that carries its derivative along a direction.
///
///   (a + a' e) (b + b' e) = a b + (a b' + a' b) e,   e^2 = 0
///
/// Dual models lora::Scalar, so LoraLinear<Dual>, a network or a loss runs with it unchanged: set `derivative` of the
/// parameters or inputs to a direction, run forward, and the results carry the directional derivative, exact to
/// rounding.

#include "lora/core/scalar.hpp"

#include <cmath>
#include <limits>
#include <numbers>
#include <ostream>

namespace lora::inline LORA_ABI::testing {

/// value + derivative e. Compared by value. Where a function has a kink the derivative is that of the branch taken.
struct Dual {
  double value = 0;
  double derivative = 0;

  constexpr Dual() = default;
  constexpr Dual(double constant)
      : value(constant) {}  // NOLINT(google-explicit-constructor): a constant is a dual number
  constexpr Dual(double number, double direction) : value(number), derivative(direction) {}

  constexpr Dual& operator+=(const Dual& b) { return *this = {value + b.value, derivative + b.derivative}; }
  constexpr Dual& operator-=(const Dual& b) { return *this = {value - b.value, derivative - b.derivative}; }
  constexpr Dual& operator*=(const Dual& b) {
    return *this = {value * b.value, value * b.derivative + derivative * b.value};
  }
  constexpr Dual& operator/=(const Dual& b) {
    const double quotient = value / b.value;
    return *this = {quotient, (derivative - quotient * b.derivative) / b.value};
  }

  friend constexpr Dual operator+(Dual a, const Dual& b) { return a += b; }
  friend constexpr Dual operator-(Dual a, const Dual& b) { return a -= b; }
  friend constexpr Dual operator*(Dual a, const Dual& b) { return a *= b; }
  friend constexpr Dual operator/(Dual a, const Dual& b) { return a /= b; }
  friend constexpr Dual operator-(const Dual& a) { return {-a.value, -a.derivative}; }
  friend constexpr Dual operator+(const Dual& a) { return a; }

  friend constexpr bool operator==(const Dual& a, const Dual& b) { return a.value == b.value; }
  friend constexpr bool operator!=(const Dual& a, const Dual& b) { return a.value != b.value; }
  friend constexpr bool operator<(const Dual& a, const Dual& b) { return a.value < b.value; }
  friend constexpr bool operator>(const Dual& a, const Dual& b) { return a.value > b.value; }
  friend constexpr bool operator<=(const Dual& a, const Dual& b) { return a.value <= b.value; }
  friend constexpr bool operator>=(const Dual& a, const Dual& b) { return a.value >= b.value; }

  friend std::ostream& operator<<(std::ostream& out, const Dual& a) {
    return out << a.value << " + " << a.derivative << " e";
  }
};

// Found by argument-dependent look-up: write `using std::exp; exp(x)`, as Eigen does.

inline Dual exp(const Dual& a) {
  const double value = std::exp(a.value);
  return {value, value * a.derivative};
}
inline Dual expm1(const Dual& a) { return {std::expm1(a.value), std::exp(a.value) * a.derivative}; }
inline Dual log(const Dual& a) { return {std::log(a.value), a.derivative / a.value}; }
inline Dual log1p(const Dual& a) { return {std::log1p(a.value), a.derivative / (1 + a.value)}; }
inline Dual sqrt(const Dual& a) {
  const double value = std::sqrt(a.value);
  return {value, a.derivative / (2 * value)};
}
inline Dual tanh(const Dual& a) {
  const double value = std::tanh(a.value);
  return {value, (1 - value * value) * a.derivative};
}
/// erf'(x) = 2 / sqrt(pi) exp(-x^2)
inline Dual erf(const Dual& a) {
  return {std::erf(a.value), 2 * std::numbers::inv_sqrtpi * std::exp(-a.value * a.value) * a.derivative};
}
inline Dual erfc(const Dual& a) {
  return {std::erfc(a.value), -2 * std::numbers::inv_sqrtpi * std::exp(-a.value * a.value) * a.derivative};
}
inline Dual pow(const Dual& a, double exponent) {
  return {std::pow(a.value, exponent), exponent * std::pow(a.value, exponent - 1) * a.derivative};
}
inline Dual abs(const Dual& a) { return a.value < 0 ? -a : a; }
inline Dual max(const Dual& a, const Dual& b) { return a < b ? b : a; }
inline Dual min(const Dual& a, const Dual& b) { return b < a ? b : a; }
inline bool isfinite(const Dual& a) { return std::isfinite(a.value) && std::isfinite(a.derivative); }
inline bool isnan(const Dual& a) { return std::isnan(a.value) || std::isnan(a.derivative); }
inline bool isinf(const Dual& a) { return std::isinf(a.value) || std::isinf(a.derivative); }

}  // namespace lora::inline LORA_ABI::testing

template <>
struct Eigen::NumTraits<lora::testing::Dual> : Eigen::GenericNumTraits<double> {
  using Real = lora::testing::Dual;
  using NonInteger = lora::testing::Dual;
  using Nested = lora::testing::Dual;
  using Literal = double;
  enum { RequireInitialization = 1, ReadCost = 2, AddCost = 2, MulCost = 6 };
};

static_assert(lora::Scalar<lora::testing::Dual>);
