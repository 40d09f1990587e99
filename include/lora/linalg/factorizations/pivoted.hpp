#pragma once
/// Low-rank approximations without singular values: cheaper and less accurate, with their errors.
///
///   A ~ L R     A (m, n),  L (m, r),  R (r, n)
///
///   pivoted_qr   L: orthonormal, spans r columns of A, each the one with the largest residual; R = L^T A
///   pivoted_lu   r rows and columns of A, crossing at the largest entry of the residual; A and L R agree on them
///
/// Both take r steps over the residual E = A - L R, so that the error ||E||_F is known at every step: 4 m n r
/// operations (QR), 2 m n r (LU), and a copy of A. Once E is zero, further columns of L and rows of R are zero. Neither
/// is optimal: truncated_svd is, and neither error is below that of truncated_svd.
///
/// Source: Golub & Van Loan 2013, sections 5.4.2 and 3.4.8.
/// Compile time (g++ 12 -O2): nothing over Eigen/Core to include, 2.5 s to use both.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"
#include "lora/linalg/certificate.hpp"
#include "lora/linalg/detail/matrix_view.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace lora::inline LORA_ABI {

template <class S>
struct PivotedApproximation {
  Matrix<S> L;              ///< (m, r)
  RowMajorMatrix<S> R;      ///< (r, n)
  Certificate certificate;  ///< spectral_error is the bound ||E||_2 <= ||E||_F

  Index rank() const { return L.cols(); }
  Matrix<S> matrix() const { return L * R; }
};

namespace detail {

/// Calls step(E, L, R, k) for k = 0, 1, ..., where E is the residual of the scaled A. A step sets rows and columns of E
/// that it has used up to zero and returns the sum of the squares that they still had: no later step changes what L R
/// is there, so the certificate adds them.
template <class Derived>
auto pivoted(const Caller& who, const Eigen::MatrixBase<Derived>& A, Index rank, auto&& step) {
  using S = typename Derived::Scalar;
  Matrix<S> E = A;
  const S largest = with_view(E, [&](const MatrixView<S>& view) { return largest_magnitude(who, "A", view); });
  if (rank < 1 || rank > std::min(E.rows(), E.cols())) {
    fail<ConfigError>(
        who, "rank is " + std::to_string(rank) + ", expected 1 to " + std::to_string(std::min(E.rows(), E.cols())));
  }
  const S scale = scale_of(largest);
  E *= scale;
  const double back = 1 / static_cast<double>(scale);
  PivotedApproximation<S> result;
  result.certificate.frobenius_norm = std::sqrt(sum_of_squares(E)) * back;
  result.L.setZero(E.rows(), rank);
  result.R.setZero(rank, E.cols());
  double dropped = 0;
  for (Index k = 0; k < rank && E.norm() > S(0); ++k) dropped += step(E, result.L, result.R, k);
  result.R /= scale;
  if (!result.R.allFinite() || !std::isfinite(result.certificate.frobenius_norm)) {
    fail<ValueError>(who, "an entry of R or the norm of A overflows");
  }
  result.certificate.frobenius_error = std::sqrt(sum_of_squares(E) + dropped) * back;
  result.certificate.spectral_error = result.certificate.frobenius_error;
  const double norm = result.certificate.frobenius_norm;
  result.certificate.rounding = certified_rounding<S, S>(E.rows(), E.cols(), rank, norm, norm);
  return result;
}

/// Sets a row or column to zero and returns the sum of the squares of its entries.
double drop(auto&& line) {
  const double sum = line.template cast<double>().squaredNorm();
  line.setZero();
  return sum;
}

}  // namespace detail

/// Throws ShapeError if A is empty, ValueError naming an entry that is not finite, or if R or the norm overflows,
/// ConfigError for a rank out of range.
template <class Derived>
auto pivoted_qr(const Eigen::MatrixBase<Derived>& A, Index rank) -> PivotedApproximation<typename Derived::Scalar> {
  using S = typename Derived::Scalar;
  return detail::pivoted("pivoted_qr", A, rank, [](Matrix<S>& E, Matrix<S>& L, RowMajorMatrix<S>& R, Index k) {
    Index pivot = 0;
    double dropped = 0;
    Vector<S> q;
    // a column of E is orthogonal to the columns of L, or it is rounding, which one pass may not make orthogonal
    for (bool orthogonal = false; !orthogonal;) {
      if (!(E.colwise().squaredNorm().maxCoeff(&pivot) > S(0))) return dropped;
      q = E.col(pivot).normalized();
      for (int pass = 0; pass < 3 && !orthogonal; ++pass) {
        q -= L.leftCols(k) * (L.leftCols(k).transpose() * q).eval();
        orthogonal = q.norm() > S(0.5);
        q.normalize();
      }
      if (!orthogonal) dropped += detail::drop(E.col(pivot));
    }
    L.col(k) = q;
    R.row(k).noalias() = q.transpose() * E;
    E.noalias() -= q * R.row(k);
    return dropped + detail::drop(E.col(pivot));
  });
}

/// Throws ShapeError if A is empty, ValueError naming an entry that is not finite, or if R or the norm overflows,
/// ConfigError for a rank out of range.
template <class Derived>
auto pivoted_lu(const Eigen::MatrixBase<Derived>& A, Index rank) -> PivotedApproximation<typename Derived::Scalar> {
  using S = typename Derived::Scalar;
  return detail::pivoted("pivoted_lu", A, rank, [](Matrix<S>& E, Matrix<S>& L, RowMajorMatrix<S>& R, Index k) {
    Index row = 0;
    Index col = 0;
    E.cwiseAbs().maxCoeff(&row, &col);
    L.col(k) = E.col(col) / E(row, col);
    R.row(k) = E.row(row);
    E.noalias() -= L.col(k) * R.row(k);
    return detail::drop(E.row(row)) + detail::drop(E.col(col));
  });
}

}  // namespace lora::inline LORA_ABI
