#pragma once
/// One type for all matrix arguments: any storage order, any stride, any expression.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <type_traits>

namespace lora::inline LORA_ABI::detail {

/// A view of a matrix (rows, cols) in memory: column-major, or row-major as the transpose of a column-major one.
///
/// The algorithms are compiled for this one type, whatever they are called with. Does not own the elements.
template <class S>
struct MatrixView {
  using Stored = Eigen::Map<const Eigen::Matrix<S, Dynamic, Dynamic>, 0, Eigen::OuterStride<>>;
  Stored stored;
  bool transposed = false;

  Index rows() const { return transposed ? stored.cols() : stored.rows(); }
  Index cols() const { return transposed ? stored.rows() : stored.cols(); }
};

/// Calls f(view) with A as a MatrixView. Copies A only if it is an expression, or strided both by rows and by columns.
template <class Derived, class F>
decltype(auto) with_view(const Eigen::MatrixBase<Derived>& A, F&& f) {
  using S = typename Derived::Scalar;
  static_assert(std::is_same_v<S, float> || std::is_same_v<S, double>,
                "lora: low-rank mathematics works on matrices of float or double; convert with A.cast<float>()");
  const auto view = [](const auto& matrix) {
    constexpr bool row_major = std::remove_cvref_t<decltype(matrix)>::IsRowMajor;
    const Index outer = row_major ? matrix.cols() : matrix.rows();  // the contiguous extent
    const Index count = row_major ? matrix.rows() : matrix.cols();
    const Index stride = count > 1 ? matrix.outerStride() : outer;
    return MatrixView<S>{{matrix.data(), outer, count, Eigen::OuterStride<>(stride)}, row_major};
  };
  if constexpr ((int(Derived::Flags) & int(Eigen::DirectAccessBit)) != 0) {
    if (A.derived().innerStride() == 1) return f(view(A.derived()));
  }
  const Matrix<S> copy = A;
  return f(view(copy));
}

/// Throws ValueError `who: A(3, 5) is nan, expected a finite number`.
template <class S>
[[noreturn]] void fail_not_finite(const Caller& who, std::string_view name, Index row, Index col, S entry) {
  fail<ValueError>(who, std::string(name) + "(" + std::to_string(row) + ", " + std::to_string(col) + ") is " +
                            text_of(entry) + ", expected a finite number");
}

/// max |a_ij|.   Throws ShapeError if the matrix is empty, ValueError naming an entry that is not finite.
template <class S>
S largest_magnitude(const Caller& who, std::string_view name, const MatrixView<S>& A) {
  check_not_empty(who, name, A.rows(), A.cols());
  S largest = 0;
  for (Index j = 0; j < A.stored.cols(); ++j) {
    const auto column = A.stored.col(j);
    if ((column.array() * S(0)).sum() == S(0)) {  // infinity and NaN times zero is NaN
      largest = std::max(largest, column.cwiseAbs().maxCoeff());
      continue;
    }
    for (Index i = 0; i < column.size(); ++i) {
      if (std::isfinite(column(i))) continue;
      fail_not_finite(who, name, A.transposed ? j : i, A.transposed ? i : j, column(i));
    }
  }
  return largest;
}

/// The sum of the squares of `count` numbers, in double, by halves: a long sum of equal numbers loses digits in double,
/// and in float all of them.
template <class S>
double sum_of_squares(const S* numbers, Index count) {
  constexpr Index few = 256;
  if (count > few) return sum_of_squares(numbers, count / 2) + sum_of_squares(numbers + count / 2, count - count / 2);
  return Eigen::Map<const Vector<S>>(numbers, count).template cast<double>().squaredNorm();
}
template <class S>
double sum_of_squares(const Matrix<S>& A) {
  return sum_of_squares(A.data(), A.size());
}

/// The power of two that brings `largest` near 1, so that squares neither overflow nor vanish; 1 for 0. Multiplying by
/// it, or by its inverse, is exact (subnormal numbers excepted).
template <class S>
S scale_of(S largest) {
  if (largest == S(0)) return S(1);
  constexpr int limit = std::is_same_v<S, float> ? 120 : 1000;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(S(1), -std::clamp(exponent, -limit, limit));
}

}  // namespace lora::inline LORA_ABI::detail
