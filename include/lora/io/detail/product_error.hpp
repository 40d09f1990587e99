#pragma once
/// How far the product of two rounded factors is from that of the factors themselves.

#include "lora/core/scalar.hpp"
#include "lora/io/detail/elements.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/dtype.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

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

/// The relative error of B A, in the Frobenius norm, if A 2^shift and B 2^-shift are rounded to dtype; of the factors
/// themselves if the product is zero. Infinite if an element becomes infinite. Cost: O((out + in) rank^2).
template <class M, class N>
double product_error(const M& A, const N& B, int shift, Dtype dtype) {
  using S = typename M::Scalar;
  using Doubles = Eigen::MatrixXd;
  // Columns: of the change of A and of rounded A, both transposed; of rounded B and of the change of B.
  const Index rank = A.rows();
  const Doubles a = A.template cast<double>().transpose(), b = B.template cast<double>();
  const auto change = [&](const auto& own, int exponent) -> Doubles {
    return own.unaryExpr([&](S x) {
      const double stored = as_stored(static_cast<S>(std::ldexp(x, exponent)), dtype);
      return std::ldexp(stored, -exponent) - static_cast<double>(x);
    });
  };
  const Doubles da = change(A, shift).transpose(), db = change(B, -shift);
  if (!da.allFinite() || !db.allFinite()) return std::numeric_limits<double>::infinity();
  // |P Q^T|^2 = trace(P^T P Q^T Q). The scale is taken out first: squares of 1e-200 would vanish.
  const auto largest = [](const Doubles& m) { return m.size() == 0 ? 0.0 : m.cwiseAbs().maxCoeff(); };
  const double a_scale = largest(a), b_scale = largest(b);
  const auto ratio = [](const Doubles& part, const Doubles& whole) {
    const double norm = whole.stableNorm();
    return norm == 0 ? 0.0 : part.stableNorm() / norm;
  };
  const auto norm = [](const Doubles& p, const Doubles& q) {
    double sum = 0;  // column by column: Eigen's product of two matrices takes a second to compile
    for (Index i = 0; i < p.cols(); ++i) {
      for (Index j = 0; j < p.cols(); ++j) sum += p.col(i).dot(p.col(j)) * q.col(i).dot(q.col(j));
    }
    return std::sqrt(std::max(0.0, sum));
  };
  if (a_scale == 0 || b_scale == 0) return std::max(ratio(da, a), ratio(db, b));
  const double whole = norm(b / b_scale, a / a_scale);
  if (whole == 0) return std::max(ratio(da, a), ratio(db, b));
  Doubles p(b.rows(), 2 * rank), q(a.rows(), 2 * rank);  // (B + dB)(A + dA) - B A = (B + dB) dA + dB A
  p << (b + db) / b_scale, db / b_scale;
  q << da / a_scale, a / a_scale;
  return norm(p, q) / whole;
}

}  // namespace lora::inline LORA_ABI::detail
