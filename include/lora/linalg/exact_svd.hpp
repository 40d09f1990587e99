#pragma once
/// The singular value decomposition of a matrix in memory, exact to rounding, without the known failures of Eigen's.
///
///   A = U diag(sigma) V^T     A (m, n),  U (m, k),  V (n, k),  k = min(m, n),  sigma_1 >= ... >= sigma_k >= 0
///
/// 1. Scale by a power of two.
/// 2. QR. If its diagonal shows that A may be rank-deficient, a QR of R with column pivoting follows, rows as
///    small as rounding are dropped, and a QR from the other side gives a square core of full rank.
/// 3. The core's SVD: Jacobi up to 16 x 16, divide and conquer above. A random reflection on either side comes first:
///    it removes the exact zeros and repetitions on which divide and conquer of Eigen 3.4 reads out of bounds.
/// 4. The result is verified (finite, orthogonal, reproduces the core); if that fails, Jacobi of the whole core.
/// Columns beyond the core complete U and V to orthonormal bases, so that both are orthonormal for every rank.
///
/// All of it runs in double, for float matrices too. Costs about 4 m n^2 + 20 n^3 operations for m >= n.
/// Source: Golub & Van Loan 2013, chapters 5 and 8; QR from both sides: Drmac & Veselic 2008, doi 10.1137/050639193.
///
/// Compile time (g++ 12 -O2): 0.1 s over Eigen/Core to include, 20 to 30 s to use, most of it Eigen's divide and
/// conquer. To pay it once in a program, write in one source file
///   template class lora::ExactSvd<double>;
/// and in the others, after including this header,
///   extern template class lora::ExactSvd<double>;

#include "lora/core/random.hpp"
#include "lora/linalg/detail/matrix_view.hpp"

#include <Eigen/QR>
#include <Eigen/SVD>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace lora::inline LORA_ABI {

/// Real: double. A template, so that only programs that use it compile it.
template <class Real = double>
class ExactSvd {
 public:
  using Values = Eigen::Matrix<Real, Dynamic, 1>;
  using Dense = Eigen::Matrix<Real, Dynamic, Dynamic>;

  /// Takes ownership of A; its entries must be finite.
  explicit ExactSvd(Dense A);

  /// sigma (min(m, n)), descending; zero beyond the core.
  const Values& singular_values() const& { return sigma_; }
  Values singular_values() && { return std::move(sigma_); }
  /// ||.||_F of the part dropped as rounding: the singular values are exact for a matrix this far from A.
  Real dropped() const { return dropped_; }
  /// The order of the core, at most min(m, n).
  Index core() const { return core_; }
  /// Whether Jacobi had to replace a result of divide and conquer that failed its verification.
  bool fell_back() const { return fell_back_; }
  /// Whether the result passed its verification. If not, use nothing of it.
  bool verified() const { return verified_; }

  /// The first `count` columns of U, at most min(m, n).
  Dense U(Index count) const { return transposed_ ? right(count) : left(count); }
  Dense V(Index count) const { return transposed_ ? left(count) : right(count); }

 private:
  void reduce(Dense A);
  void solve(const Dense& K);
  bool reproduces(const Dense& K) const;
  Dense left(Index count) const;
  Dense right(Index count) const;
  static Dense padded(const Dense& columns, Index rows, Index count);

  bool transposed_;  // whether A was transposed: everything below is for m >= n
  bool pivoted_ = false;
  bool fell_back_ = false;
  bool verified_ = true;
  Index core_ = 0;
  Real dropped_ = 0;
  Eigen::HouseholderQR<Dense> qr_;                // A = Q R
  Eigen::ColPivHouseholderQR<Dense> pivoted_qr_;  // R P = Q1 R1
  Eigen::HouseholderQR<Dense> right_qr_;          // (the kept rows of R1)^T = Q2 R2; the core is R2^T
  Dense U_, V_;                                   // of the core
  Values sigma_;
};

namespace detail {

/// Eigen's SVDs, whose interface differs since version 5.
template <class Dense>
auto jacobi_svd(const Dense& K) {
#if EIGEN_MAJOR_VERSION >= 5
  return Eigen::JacobiSVD<Dense, Eigen::ComputeThinU | Eigen::ComputeThinV>(K);
#else
  return Eigen::JacobiSVD<Dense>(K, Eigen::ComputeThinU | Eigen::ComputeThinV);
#endif
}
template <class Dense>
auto divide_and_conquer_svd(const Dense& K) {
#if EIGEN_MAJOR_VERSION >= 5
  return Eigen::BDCSVD<Dense, Eigen::ComputeThinU | Eigen::ComputeThinV>(K);
#else
  return Eigen::BDCSVD<Dense>(K, Eigen::ComputeThinU | Eigen::ComputeThinV);
#endif
}

/// A (rows, cols) matrix of standard normal numbers, filled column by column.
template <class S>
Eigen::Matrix<S, Dynamic, Dynamic> normal_matrix(Index rows, Index cols, Rng& rng) {
  Eigen::Matrix<S, Dynamic, Dynamic> matrix(rows, cols);
  for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = rng.normal<S>();
  return matrix;
}

}  // namespace detail

template <class Real>
ExactSvd<Real>::ExactSvd(Dense A)
    : transposed_(A.rows() < A.cols()), sigma_(Values::Zero(std::min(A.rows(), A.cols()))) {
  const Real scale = detail::scale_of<Real>(A.cwiseAbs().maxCoeff());
  A *= scale;
  if (transposed_) A = A.transpose().eval();
  reduce(std::move(A));
  sigma_ /= scale;
  dropped_ /= scale;
}

template <class Real>
void ExactSvd<Real>::reduce(Dense A) {
  const Index m = A.rows();
  const Index n = A.cols();
  qr_.compute(A);
  A.resize(0, 0);
  Dense R = qr_.matrixQR().topRows(n).template triangularView<Eigen::Upper>();
  const auto diagonal = R.diagonal().cwiseAbs();
  const Real tolerance = Real(std::max<Index>(m, 16)) * std::numeric_limits<Real>::epsilon();
  if (diagonal.minCoeff() > tolerance * diagonal.maxCoeff()) {
    core_ = n;
    return solve(R);
  }
  pivoted_ = true;
  pivoted_qr_.compute(R);
  R = pivoted_qr_.matrixQR().template triangularView<Eigen::Upper>();
  while (core_ < n && std::abs(R(core_, core_)) > tolerance * std::abs(R(0, 0))) ++core_;
  dropped_ = R.bottomRightCorner(n - core_, n - core_).norm();
  if (core_ == 0) return;
  right_qr_.compute(R.topRows(core_).transpose());
  const Dense R2 = right_qr_.matrixQR().topRows(core_).template triangularView<Eigen::Upper>();
  solve(R2.transpose());
}

template <class Real>
void ExactSvd<Real>::solve(const Dense& K) {
  const auto take = [this](const auto& svd) {
    U_ = svd.matrixU();
    V_ = svd.matrixV();
    sigma_.head(core_) = svd.singularValues();
  };
  constexpr Index small = 16;
  if (core_ > small) {
    // K = H1 K' H2 with reflections H = I - 2 u u^T in random directions u.
    Rng rng(0);
    const Values u1 = detail::normal_matrix<Real>(core_, 1, rng).normalized();
    const Values u2 = detail::normal_matrix<Real>(core_, 1, rng).normalized();
    Dense reflected = K - (2 * u1) * (u1.transpose() * K);
    reflected -= (reflected * u2) * (2 * u2).transpose();
    take(detail::divide_and_conquer_svd(reflected));
    U_ -= (2 * u1) * (u1.transpose() * U_);
    V_ -= (2 * u2) * (u2.transpose() * V_);
    if (reproduces(K)) return;
    fell_back_ = true;
  }
  take(detail::jacobi_svd(K));
  verified_ = reproduces(K);
}

/// Tests ten random directions x: U^T U x = x, V^T V x = x, K x = U S V^T x. An error ten times the tolerance escapes
/// with probability 1e-10 (Halko, Martinsson & Tropp 2011, lemma 4.1). Up to order 10 all unit vectors are tested.
template <class Real>
bool ExactSvd<Real>::reproduces(const Dense& K) const {
  constexpr Index probes = 10;
  const Real tolerance = 100 * std::sqrt(Real(core_)) * std::numeric_limits<Real>::epsilon();
  Rng rng(1);
  const Dense X =
      core_ <= probes ? Dense(Dense::Identity(core_, core_)) : detail::normal_matrix<Real>(core_, probes, rng);
  const auto near = [&](const Dense& given, const Dense& expected, Real size) {
    return (given - expected).norm() <= tolerance * size * X.norm();  // false for NaN
  };
  const auto sigma = sigma_.head(core_);
  for (Index i = 0; i < core_; ++i) {
    if (!(sigma(i) >= 0 && std::isfinite(sigma(i)) && (i == 0 || sigma(i) <= sigma(i - 1)))) return false;
  }
  const Dense Vt_X = V_.transpose() * X;
  return near(U_.transpose() * (U_ * X), X, 1) && near(V_.transpose() * (V_ * X), X, 1) &&
         near(U_ * (sigma.asDiagonal() * Vt_X), K * X, sigma(0));
}

/// [columns 0; 0 I], (rows, count): completes the basis by unit vectors outside the core.
template <class Real>
auto ExactSvd<Real>::padded(const Dense& columns, Index rows, Index count) -> Dense {
  Dense all = Dense::Identity(rows, count);
  const Index taken = std::min(columns.cols(), count);
  all.topLeftCorner(columns.rows(), taken) = columns.leftCols(taken);
  return all;
}

template <class Real>
auto ExactSvd<Real>::left(Index count) const -> Dense {
  Dense U = padded(U_, sigma_.size(), count);
  if (pivoted_) U.applyOnTheLeft(pivoted_qr_.householderQ());
  Dense all = padded(U, qr_.rows(), count);
  all.applyOnTheLeft(qr_.householderQ());
  return all;
}

template <class Real>
auto ExactSvd<Real>::right(Index count) const -> Dense {
  Dense V = padded(V_, sigma_.size(), count);
  if (!pivoted_) return V;
  if (core_ > 0) V.applyOnTheLeft(right_qr_.householderQ());
  return pivoted_qr_.colsPermutation() * V;
}

}  // namespace lora::inline LORA_ABI
