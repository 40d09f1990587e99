#pragma once
// The QR decomposition that the low-rank methods use, compiled once for each scalar.

#include "lora/core/scalar.hpp"

#include <Eigen/QR>

#include <algorithm>
#include <utility>

namespace lora::inline LORA_ABI::detail {

/// A = Q R by Householder reflections: A (m, n),  Q (m, m) kept as its reflections,  R (min(m, n), n).
/// Source: Golub & Van Loan 2013, section 5.2.
template <class S>
class ThinQr {
 public:
  explicit ThinQr(Matrix<S> A);

  Index rows() const { return qr_.rows(); }
  Index cols() const { return qr_.cols(); }
  /// The first min(m, n) rows of R, in double.
  Eigen::MatrixXd R() const;
  /// Columns first, ..., first + count - 1 of Q.
  Matrix<S> Q(Index first, Index count) const;
  /// Q [X; 0]     X (at most m, k),  the result (m, k)
  Matrix<S> apply(const Matrix<S>& X) const;

 private:
  Eigen::HouseholderQR<Matrix<S>> qr_;
};

template <class S>
ThinQr<S>::ThinQr(Matrix<S> A) : qr_(std::move(A)) {}

template <class S>
Eigen::MatrixXd ThinQr<S>::R() const {
  const Matrix<S> upper = qr_.matrixQR().topRows(std::min(rows(), cols())).template triangularView<Eigen::Upper>();
  return upper.template cast<double>();
}

template <class S>
Matrix<S> ThinQr<S>::Q(Index first, Index count) const {
  Matrix<S> columns = Matrix<S>::Zero(rows(), count);
  columns.middleRows(first, count).setIdentity();
  columns.applyOnTheLeft(qr_.householderQ());
  return columns;
}

template <class S>
Matrix<S> ThinQr<S>::apply(const Matrix<S>& X) const {
  Matrix<S> all = Matrix<S>::Zero(rows(), X.cols());
  all.topRows(X.rows()) = X;
  all.applyOnTheLeft(qr_.householderQ());
  return all;
}

}  // namespace lora::inline LORA_ABI::detail
