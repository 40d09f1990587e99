#pragma once
/// How far the product of two rounded factors is from that of the factors themselves.

#include "lora/core/scalar.hpp"
#include "lora/io/detail/elements.hpp"
#include "lora/io/dtype.hpp"
#include "lora/kernels/arithmetic.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// The relative error of rounding to a format, for numbers that are normal in it.
constexpr double rounding_of(Dtype dtype) {
  return dtype == Dtype::f16 ? 0x1p-11 : dtype == Dtype::bf16 ? 0x1p-8 : dtype == Dtype::f32 ? 0x1p-24 : 0x1p-53;
}

/// A number as a file of this format gives it back.
template <class S>
double as_stored(S number, Dtype dtype) {
  double result = 0;
  with_dtype<S>(dtype, [&]<Dtype Stored> {
    std::byte bytes[8];
    Element<S, Stored>::store(number, bytes);
    result = Element<double, Stored>::load(bytes);
  });
  return result;
}

inline double dot_product(const double* a, const double* b, std::size_t count) {
  return sum_of<double>(static_cast<Index>(count), [=](Index i) { return a[i] * b[i]; });
}

inline double largest_magnitude(const std::vector<double>& numbers) {
  double largest = 0;
  for (const double number : numbers) largest = std::max(largest, std::abs(number));
  return largest;
}

/// A factor of a low-rank product in double: `rank` columns one after the other, and how rounding changes them.
struct RoundedFactor {
  std::vector<double> numbers, changes;
  double scale = 0;  ///< the largest magnitude of the numbers, divided out of both: squares of 1e-200 would vanish
  bool finite = true;

  /// factor 2^exponent is rounded to dtype.
  template <class S>
  RoundedFactor(std::span<const S> factor, int exponent, Dtype dtype)
      : numbers(factor.begin(), factor.end()), changes(factor.size()), scale(largest_magnitude(numbers)) {
    for (std::size_t i = 0; i < factor.size(); ++i) {
      const double stored = as_stored(static_cast<S>(std::ldexp(factor[i], exponent)), dtype);
      changes[i] = std::ldexp(stored, -exponent) - numbers[i];
      finite = finite && std::isfinite(changes[i]);
      if (scale == 0) continue;
      numbers[i] /= scale;
      changes[i] /= scale;
    }
  }
  /// The relative error of the factor itself.
  double error() const {
    const double largest = largest_magnitude(changes), norm = std::sqrt(dot(numbers));
    if (largest == 0 || norm == 0) return 0;
    std::vector<double> unit = changes;
    for (double& change : unit) change /= largest;
    return std::sqrt(dot(unit)) * largest / norm;
  }

 private:
  static double dot(const std::vector<double>& some) { return dot_product(some.data(), some.data(), some.size()); }
};

/// |sum_k p_k q_k^T|, whose square is the sum over k and l of (p_k . p_l) (q_k . q_l).   P, Q: columns of one length.
inline double norm_of_products(const std::vector<const double*>& P, std::size_t rows,
                               const std::vector<const double*>& Q, std::size_t cols) {
  double sum = 0;
  for (std::size_t k = 0; k < P.size(); ++k) {
    for (std::size_t l = 0; l <= k; ++l) {
      const double once = dot_product(P[k], P[l], rows) * dot_product(Q[k], Q[l], cols);
      sum += k == l ? once : 2 * once;
    }
  }
  return std::sqrt(std::max(0.0, sum));
}

/// The relative error of B A, in the Frobenius norm, if A 2^shift and B 2^-shift are rounded to dtype; of the factors
/// themselves if the product is zero. Infinite if an element becomes infinite. Cost: O((out + in) rank^2).
/// A (rank, in) row after row; B (out, rank) column after column.
template <class S>
double product_error(std::span<const S> A, std::span<const S> B, Index rank, int shift, Dtype dtype) {
  const RoundedFactor a(A, shift, dtype), b(B, -shift, dtype);
  if (!a.finite || !b.finite) return std::numeric_limits<double>::infinity();
  const auto of_factors = [&] { return std::max(a.error(), b.error()); };
  if (a.scale == 0 || b.scale == 0) return of_factors();
  const std::size_t count = static_cast<std::size_t>(rank), in = A.size() / count, out = B.size() / count;
  std::vector<double> sum(B.size());  // B + dB
  std::transform(b.numbers.begin(), b.numbers.end(), b.changes.begin(), sum.begin(), std::plus<>());
  std::vector<const double*> p, q;
  for (std::size_t k = 0; k < count; ++k) {
    p.push_back(b.numbers.data() + k * out);
    q.push_back(a.numbers.data() + k * in);
  }
  const double whole = norm_of_products(p, out, q, in);
  if (whole == 0) return of_factors();
  // (B + dB)(A + dA) - B A = (B + dB) dA + dB A
  for (std::size_t k = 0; k < count; ++k) {
    p.push_back(sum.data() + k * out);
    p[k] = b.changes.data() + k * out;
    q.push_back(a.changes.data() + k * in);
  }
  return norm_of_products(p, out, q, in) / whole;
}

}  // namespace lora::inline LORA_ABI::detail
