#pragma once
/// The leading part of a QR decomposition alone.
///
///   A = Q R,   B = the first r columns of Q,   A' = the first r rows of R     A (m, n),  B (m, r),  A' (r, n)
///
/// B A' agrees with A in its first r columns, and is the projection of the others onto their span. It depends on the
/// order of the columns and is not optimal: truncated_svd is.
///
/// Householder QR of r columns and one product, 4 m n r operations; no copy of A. The signs are those of Householder
/// reflections; the diagonal of R may be negative.
/// Source: Golub & Van Loan 2013, section 5.2.
/// Compile time (g++ 12 -O2): 0.2 s over Eigen/Core to include, about 10 s for each scalar to use.

#include "lora/core/error.hpp"
#include "lora/linalg/detail/matrix_view.hpp"
#include "lora/linalg/detail/thin_qr.hpp"
#include "lora/linalg/factors.hpp"
#include "lora/linalg/linear_operator.hpp"

#include <algorithm>
#include <string>
#include <string_view>

namespace lora::inline LORA_ABI {

namespace detail {

template <class S>
Factors<S> leading_qr(const Caller& who, std::string_view name, const MatrixView<S>& A, Index rank) {
  const S scale = scale_of(largest_magnitude(who, name, A));
  const Index largest_rank = std::min(A.rows(), A.cols());
  if (rank < 1 || rank > largest_rank) {
    fail<ConfigError>(who, "rank is " + std::to_string(rank) + ", expected 1 to " + std::to_string(largest_rank));
  }
  const DenseOperator<S> matrix(A);
  Matrix<S> columns(A.rows(), rank);
  matrix.columns(0, columns);
  Factors<S> result{ThinQr<S>(scale * columns).Q(0, rank), {}, 1};
  Matrix<S> transposed(A.cols(), rank);
  matrix.apply_transposed(result.B, transposed);
  result.A = transposed.transpose();
  if (!result.A.allFinite()) fail<ValueError>(who, "an entry of R overflows");
  result.A.leftCols(rank).template triangularView<Eigen::StrictlyLower>().setZero();
  return result;
}

}  // namespace detail

/// B = Q_r and A = R_r with scale 1.
/// Throws ShapeError if A is empty, ValueError naming an entry that is not finite or if R overflows, ConfigError unless
/// 1 <= rank <= min(m, n).
template <class Derived>
auto leading_qr(const Eigen::MatrixBase<Derived>& A, Index rank) -> Factors<typename Derived::Scalar> {
  using S = typename Derived::Scalar;
  return detail::with_view(
      A, [&](const detail::MatrixView<S>& view) { return detail::leading_qr<S>("leading_qr", "A", view, rank); });
}

}  // namespace lora::inline LORA_ABI
