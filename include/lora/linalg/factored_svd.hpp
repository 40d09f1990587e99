#pragma once
/// Singular values, norms and truncation of products s B A of two thin factors, without forming the (m, n) matrix.
///
///   M = s B A     B (m, R),  A (R, n),  s a number
///   B = Q1 R1 and A^T = Q2 R2 give  M = Q1 (s R1 R2^T) Q2^T:  the SVD of the R x R core is that of M
///
/// O((m + n) R^2 + R^3) operations instead of O(m n min(m, n)) for the dense matrix; memory for one copy of the
/// factors. The QR of truncate and balanced runs in the factors' scalar type, their core in double. Norms, distances
/// and singular values alone run in double from the start, which takes two copies of factors of float: where a product
/// or a difference cancels, the digits of float would be gone.
///
/// Source: the factored form of Eckart & Young 1936; overlap of subspaces: Hu et al. 2021, arXiv:2106.09685v2, section
/// 7.2.
/// Compile time (g++ 12 -O2): 0.2 s over Eigen/Core to include; to use, that of exact_svd.hpp, which tells how to pay
/// once in a program, and 6 s for each scalar.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"
#include "lora/linalg/detail/matrix_view.hpp"
#include "lora/linalg/detail/thin_qr.hpp"
#include "lora/linalg/exact_svd.hpp"
#include "lora/linalg/factors.hpp"
#include "lora/linalg/rank.hpp"
#include "lora/linalg/svd_options.hpp"
#include "lora/linalg/truncated_svd.hpp"

#include <algorithm>
#include <cmath>
#include <concepts>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI {

/// U sqrt(sigma) and sqrt(sigma) V^T: the rank-r matrix as two balanced factors, B^T B = A A^T.
template <class S>
Factors<S> balanced_factors(const TruncatedSvd<S>& svd) {
  const Vector<S> root = svd.singular_values.cwiseSqrt();
  return {svd.U * root.asDiagonal(), root.asDiagonal() * svd.V.transpose(), 1};
}

namespace detail {

/// Scales each column of B, and that of At by the inverse, by a power of two that makes them about equally large. Their
/// product does not change in any bit, and the squares in a QR decomposition of columns of all sizes do not vanish.
template <class S>
void balance_columns(Matrix<S>& B, Matrix<S>& At) {
  for (Index k = 0; k < B.cols(); ++k) {
    int of_B = 0, of_A = 0;
    const S b = B.col(k).cwiseAbs().maxCoeff(), a = At.col(k).cwiseAbs().maxCoeff();
    if (b == S(0) || a == S(0)) continue;
    std::frexp(b, &of_B);
    std::frexp(a, &of_A);
    const int shift = (of_A - of_B) / 2;
    if (shift == 0) continue;
    B.col(k) = B.col(k).unaryExpr([shift](S entry) { return std::ldexp(entry, shift); });
    At.col(k) = At.col(k).unaryExpr([shift](S entry) { return std::ldexp(entry, -shift); });
  }
}

/// The two QR decompositions of s B A and its core. Throws ShapeError for factors that are empty or do not fit each
/// other, ValueError for an entry or a scale that is not finite, or a product that overflows double.
template <class S>
class Compressed {
 public:
  Compressed(const Caller& who, const FactorView<S>& M);

  /// ||s B A||_F
  double norm() const { return core_.stableNorm(); }
  /// The largest rank that the product can have: min(m, n, R).
  Index largest_rank() const { return std::min(core_.rows(), core_.cols()); }
  /// Consumes the core: call norm() and largest_rank() before.
  ExactSvd<double> core_svd() && { return ExactSvd<double>(std::move(core_)); }

  TruncatedSvd<S> truncate(const SvdOptions& options) &&;

 private:
  Caller who_;
  std::optional<ThinQr<S>> left_, right_;  // of B and of A^T
  Eigen::MatrixXd core_;                   // R1 R2^T with all scales
  double size_ = 0;                        // sum_j |s| ||b_j|| ||a_j||, which is ||M||_F unless the terms cancel
};

template <class S>
Compressed<S>::Compressed(const Caller& who, const FactorView<S>& M) : who_(who) {
  check_rows(who, "A", M.A.rows(), "B.cols()", M.B.cols());
  if (!std::isfinite(M.scale)) {
    fail<ValueError>(who, "the scale is " + text_of(M.scale) + ", expected a finite number");
  }
  with_view(M.B, [&](const MatrixView<S>& given) { largest_magnitude(who, "B", given); });
  with_view(M.A, [&](const MatrixView<S>& given) { largest_magnitude(who, "A", given); });
  Matrix<S> B = M.B, At = M.A.transpose();
  balance_columns(B, At);
  const S for_B = scale_of(B.cwiseAbs().maxCoeff()), for_A = scale_of(At.cwiseAbs().maxCoeff());
  B *= for_B;
  At *= for_A;
  left_.emplace(std::move(B));
  right_.emplace(std::move(At));
  core_.noalias() = left_->R() * right_->R().transpose();
  // by exponents: M.scale divided by one of the two may overflow or lose digits even if divided by both it does not
  const double scale = std::ldexp(M.scale, -(std::ilogb(for_B) + std::ilogb(for_A)));
  core_ *= scale;
  size_ = std::abs(scale) * left_->R().colwise().norm().dot(right_->R().colwise().norm());
  if (!core_.allFinite() || !std::isfinite(norm()))
    fail<ValueError>(who, "the product of the factors and their scale overflows");
}

template <class S>
TruncatedSvd<S> Compressed<S>::truncate(const SvdOptions& options) && {
  validate(options, largest_rank(), who_);
  TruncatedSvd<S> result = detail::truncate<S>(std::move(*this).core_svd(), options, who_);
  result.U = left_->apply(result.U);
  result.V = right_->apply(result.V);
  Certificate& certificate = result.certificate;
  certificate.rounding =
      certified_rounding<S, S>(result.U.rows(), result.V.rows(), result.rank(), certificate.frobenius_norm, size_);
  return result;
}

/// The same factors in double: a view if they are, else a copy.
template <class S>
auto in_double(const FactorView<S>& M) {
  if constexpr (std::is_same_v<S, double>) {
    return M;
  } else {
    return Factors<double>{M.B.template cast<double>(), M.A.template cast<double>(), M.scale};
  }
}

}  // namespace detail

/// All singular values that can differ from zero, min(m, n, R) of them, descending. Computed in double; error as
/// norm's.
template <FactoredMatrix Given>
Eigen::VectorXd singular_values(const Given& M) {
  return detail::Compressed<double>("singular_values", detail::in_double<typename Given::Scalar>(M))
      .core_svd()
      .singular_values();
}

/// ||M||_F, computed in double: the error is at most 8 epsilon sqrt(m + n) sum_j |s| ||b_j|| ||a_j||, epsilon that of
/// double, b_j the columns of B and a_j the rows of A. So columns may differ in scale, and B A may cancel.
template <FactoredMatrix Given>
double norm(const Given& M) {
  return detail::Compressed<double>("norm", detail::in_double<typename Given::Scalar>(M)).norm();
}

/// The nearest product of a rank, energy or error, with its certificate. options.method is ignored: this is exact.
///
///   truncate(M, {.rank = 16}),   then balanced_factors(...) for two factors again
///
/// Throws ShapeError for factors that are empty or do not fit, ValueError for an entry or scale that is not finite,
/// ConfigError for options out of range; the largest rank is min(m, n, R).
template <FactoredMatrix Given>
auto truncate(const Given& M, const SvdOptions& options) -> TruncatedSvd<typename Given::Scalar> {
  return detail::Compressed<typename Given::Scalar>("truncate", M).truncate(options);
}

/// The same matrix with balanced factors, B^T B = A A^T = diag(sigma), of rank min(m, n, R) and scale 1.
template <FactoredMatrix Given>
auto balanced(const Given& M) -> Factors<typename Given::Scalar> {
  detail::Compressed<typename Given::Scalar> compressed("balanced", M);
  const Index rank = compressed.largest_rank();
  return balanced_factors(std::move(compressed).truncate({.rank = rank}));
}

/// ||M - N||_F, computed in double: error as norm's, with the columns of both.   Throws ShapeError if the two differ in
/// shape.
template <FactoredMatrix First, FactoredMatrix Second>
  requires std::same_as<typename First::Scalar, typename Second::Scalar>
double distance(const First& M, const Second& N) {
  using S = typename First::Scalar;
  const auto first = detail::in_double<S>(M);
  const auto second = detail::in_double<S>(N);
  return detail::Compressed<double>("distance", detail::concatenated<double>("distance", {{first, 1}, {second, -1}}))
      .norm();
}

enum class Side {
  left,   ///< the columns of U: directions that the matrix writes
  right,  ///< the columns of V: directions that it reads
};

/// How much of one subspace lies in another, from 0 (orthogonal) to 1 (one contains the other):
///   phi = ||U_M^T U_N||_F^2 / min(i, j)
/// U_M: the first i singular vectors of M, U_N: the first j of N, of the given side.
/// Throws ShapeError if the vectors' lengths differ, ConfigError unless 1 <= i <= min(m, n, R) of M and j likewise,
/// ValueError if i or j is above the numerical rank (that of rank.hpp), as for a new adapter with B = 0: singular
/// vectors beyond it are arbitrary.
/// Source: Hu et al. 2021, arXiv:2106.09685v2, equation (4).
template <FactoredMatrix First, FactoredMatrix Second>
  requires std::same_as<typename First::Scalar, typename Second::Scalar>
double subspace_overlap(const First& M, const Second& N, Index i, Index j, Side side) {
  using S = typename First::Scalar;
  const auto vectors = [side](std::string_view name, const FactorView<S>& factors, Index count) -> Eigen::MatrixXd {
    const TruncatedSvd<S> svd = detail::Compressed<S>("subspace_overlap", factors).truncate({.rank = count});
    const Index rank =
        numerical_rank(svd.spectrum, detail::rank_tolerance<S>(factors.rows(), factors.cols(), svd.spectrum)).rank;
    if (count > rank) {
      detail::fail<ValueError>("subspace_overlap", std::string(name) + " has numerical rank " + std::to_string(rank) +
                                                       ", expected at least " + std::to_string(count));
    }
    return (side == Side::left ? svd.U : svd.V).template cast<double>();
  };
  const Eigen::MatrixXd first = vectors("the first", M, i);
  const Eigen::MatrixXd second = vectors("the second", N, j);
  detail::check_extent("subspace_overlap", "the second", second.rows(), side == Side::left ? "rows" : "columns",
                       side == Side::left ? "rows of the first" : "columns of the first", first.rows());
  return (first.transpose() * second).squaredNorm() / static_cast<double>(std::min(i, j));
}

}  // namespace lora::inline LORA_ABI
