#pragma once

#include <Eigen/Core>
#include <cmath>

#include "lora/core/scalar.hpp"

namespace lora_test {

/// A number that counts what is done with it. The real code runs on it unchanged, so what it counts is what the code
/// does.
///
/// Numbers made from a literal or a factor are constants; data() marks the entries of matrices, and everything computed
/// from them is data. products counts data times data: in a matrix product exactly its multiply-adds, while alpha and
/// the other factors that Eigen and the layers multiply with are left out.
struct Counted {
  static inline long products = 0;    ///< multiplications of data with data
  static inline long operations = 0;  ///< multiplications, additions, subtractions, divisions and roots with data

  double value = 0;
  bool is_data = false;

  Counted() = default;
  Counted(double constant) : value(constant) {}  // NOLINT(google-explicit-constructor)

  static Counted data(double number) {
    Counted result(number);
    result.is_data = true;
    return result;
  }

  friend Counted operator+(const Counted& a, const Counted& b) { return result(a.value + b.value, a, b); }
  friend Counted operator-(const Counted& a, const Counted& b) { return result(a.value - b.value, a, b); }
  friend Counted operator*(const Counted& a, const Counted& b) {
    products += a.is_data && b.is_data ? 1 : 0;
    return result(a.value * b.value, a, b);
  }
  friend Counted operator/(const Counted& a, const Counted& b) { return result(a.value / b.value, a, b); }
  friend Counted operator-(const Counted& a) { return a; }
  Counted& operator+=(const Counted& b) { return *this = *this + b; }
  Counted& operator-=(const Counted& b) { return *this = *this - b; }
  Counted& operator*=(const Counted& b) { return *this = *this * b; }
  Counted& operator/=(const Counted& b) { return *this = *this / b; }

  friend bool operator==(const Counted& a, const Counted& b) { return a.value == b.value; }
  friend bool operator!=(const Counted& a, const Counted& b) { return a.value != b.value; }
  friend bool operator<(const Counted& a, const Counted& b) { return a.value < b.value; }
  friend bool operator>(const Counted& a, const Counted& b) { return a.value > b.value; }
  friend bool operator<=(const Counted& a, const Counted& b) { return a.value <= b.value; }
  friend bool operator>=(const Counted& a, const Counted& b) { return a.value >= b.value; }
  friend Counted sqrt(const Counted& a) { return result(std::sqrt(a.value), a, a); }
  friend Counted abs(const Counted& a) { return a; }

 private:
  static Counted result(double value, const Counted& a, const Counted& b) {
    Counted number(value);
    number.is_data = a.is_data || b.is_data;
    operations += number.is_data ? 1 : 0;
    return number;
  }
};

template <class Function>
long products_in(Function&& f) {
  const long before = Counted::products;
  f();
  return Counted::products - before;
}

template <class Function>
long operations_in(Function&& f) {
  const long before = Counted::operations;
  f();
  return Counted::operations - before;
}

}  // namespace lora_test

template <>
struct Eigen::NumTraits<lora_test::Counted> : Eigen::GenericNumTraits<double> {
  using Real = lora_test::Counted;
  using NonInteger = lora_test::Counted;
  using Nested = lora_test::Counted;
  using Literal = double;
  enum { RequireInitialization = 1, ReadCost = 1, AddCost = 1, MulCost = 1 };
};

static_assert(lora::Scalar<lora_test::Counted>);
