#pragma once
/// Matrices s B A of two thin factors, and the operations on them that need only products.
///
///   M = s B A     B (m, R),  A (R, n),  s a number
///
/// Norms, singular values and truncation are in factored_svd.hpp.   Compile time: none beyond Eigen/Core.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"
#include "lora/linalg/detail/matrix_view.hpp"

#include <cmath>
#include <concepts>
#include <cstddef>
#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

/// s B A, owning its factors.
template <class S>
struct Factors {
  using Scalar = S;
  Matrix<S> B;          ///< (m, R)
  RowMajorMatrix<S> A;  ///< (R, n)
  double scale = 1;     ///< s

  Index rows() const { return B.rows(); }
  Index cols() const { return A.cols(); }
  Index rank() const { return B.cols(); }
  Matrix<S> matrix() const { return S(scale) * B * A; }
};

/// s B A of factors that are owned elsewhere, by an adapter for example. Valid as long as they are.
template <class S>
struct FactorView {
  using Scalar = S;
  Eigen::Ref<const Matrix<S>, 0, Eigen::OuterStride<>> B;
  Eigen::Ref<const RowMajorMatrix<S>, 0, Eigen::OuterStride<>> A;
  double scale = 1;

  FactorView(const Matrix<S>& own_B, const RowMajorMatrix<S>& own_A, double s) : B(own_B), A(own_A), scale(s) {}
  FactorView(const Factors<S>& own) : FactorView(own.B, own.A, own.scale) {}  // NOLINT(google-explicit-constructor)

  Index rows() const { return B.rows(); }
  Index cols() const { return A.cols(); }
  Index rank() const { return B.cols(); }
};

/// Either of the two: an argument for factored matrices. Both have scale, B, A, rows(), cols() and rank().
template <class M>
concept FactoredMatrix =
    std::same_as<M, Factors<typename M::Scalar>> || std::same_as<M, FactorView<typename M::Scalar>>;

/// One term of a weighted sum.
template <class S>
struct WeightedFactors {
  FactorView<S> factors;
  double weight = 1;
};

namespace detail {

template <class S>
Factors<S> concatenated(const Caller& who, const std::vector<WeightedFactors<S>>& terms) {
  if (terms.empty()) fail<ConfigError>(who, "there are no terms, expected at least one");
  const Index rows = terms[0].factors.rows();
  const Index cols = terms[0].factors.cols();
  const double first = terms[0].weight * terms[0].factors.scale;
  Index rank = 0;
  bool same = true;
  for (std::size_t k = 0; k < terms.size(); ++k) {
    const FactorView<S>& term = terms[k].factors;
    const std::string name = "term " + std::to_string(k);
    check_rows(who, "A of " + name, term.A.rows(), "B.cols()", term.B.cols());
    if (term.rows() != rows || term.cols() != cols) {
      fail<ShapeError>(who, name + " is " + std::to_string(term.rows()) + " x " + std::to_string(term.cols()) +
                                ", expected " + std::to_string(rows) + " x " + std::to_string(cols) + " as term 0");
    }
    const double factor = terms[k].weight * term.scale;
    if (!std::isfinite(factor)) {
      fail<ValueError>(who, "weight times scale of " + name + " is " + text_of(factor) + ", expected a finite number");
    }
    same = same && factor == first;
    rank += term.rank();
  }
  Factors<S> sum{Matrix<S>(rows, rank), RowMajorMatrix<S>(rank, cols), same ? first : 1};
  Index done = 0;
  for (const WeightedFactors<S>& term : terms) {
    const FactorView<S>& own = term.factors;
    const double factor = same ? 1 : term.weight * own.scale;
    sum.B.middleCols(done, own.rank()) = own.B;
    auto A = sum.A.middleRows(done, own.rank());
    A = (factor * own.A.template cast<double>()).template cast<S>();
    done += own.rank();
    if (own.B.allFinite() && A.allFinite()) continue;
    const std::string name = "term " + std::to_string(&term - terms.data());
    with_view(own.B, [&](const MatrixView<S>& view) { largest_magnitude(who, "in " + name + ", B", view); });
    with_view(own.A, [&](const MatrixView<S>& view) { largest_magnitude(who, "in " + name + ", A", view); });
    fail<ValueError>(who, "weight times scale of " + name + " is " + text_of(factor) +
                              ", which takes an entry of A beyond the range of the scalar");
  }
  return sum;
}

template <class S>
double inner_product(const FactorView<S>& M, const FactorView<S>& N) {
  check_rows("inner_product", "A", M.A.rows(), "B.cols()", M.B.cols());
  check_rows("inner_product", "A of the second", N.A.rows(), "B.cols()", N.B.cols());
  check_rows("inner_product", "the second", N.rows(), "rows of the first", M.rows());
  check_cols("inner_product", "the second", N.cols(), "columns of the first", M.cols());
  const Eigen::MatrixXd left = M.B.template cast<double>().transpose() * N.B.template cast<double>();
  const Eigen::MatrixXd right = M.A.template cast<double>() * N.A.template cast<double>().transpose();
  return M.scale * N.scale * left.cwiseProduct(right).sum();
}

}  // namespace detail

/// The Frobenius inner product of two matrices, trace(M^T N) = s t sum (B^T D) .* (A C^T) for N = t D C. Throws
/// ShapeError if the two differ in shape.
template <FactoredMatrix First, FactoredMatrix Second>
  requires std::same_as<typename First::Scalar, typename Second::Scalar>
double inner_product(const First& M, const Second& N) {
  return detail::inner_product<typename First::Scalar>(M, N);
}

/// w_1 s_1 B_1 A_1 + w_2 s_2 B_2 A_2 + ...: B = [B_1 B_2 ...], A = [w_1 s_1 A_1; w_2 s_2 A_2; ...]. The ranks add up.
///
///   weighted_sum<float>({{first, 0.7}, {second, 0.3}}),   then truncate(...)
///
/// No cross terms; every entry is rounded once, and not at all if all w_k s_k are equal: they become the scale. A
/// single term of weight 1 is returned unchanged.
/// Throws ConfigError without terms, ShapeError naming the term whose shape differs, ValueError for a weight or an
/// entry that is not finite, or an entry that its weight brings beyond the range of the scalar.
template <class S>
Factors<S> weighted_sum(const std::vector<WeightedFactors<S>>& terms) {
  return detail::concatenated("weighted_sum", terms);
}

}  // namespace lora::inline LORA_ABI
