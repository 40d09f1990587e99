#pragma once
/// A nearly optimal truncation from a few products with the matrix, and how far it is from the matrix.
///
///   Y = A Omega,   q times: Y <- A orth(A^T orth(Y)),   Q = orth(Y),   Q^T A = W S V^T,   U = Q W
///
/// A (m, n) any LinearOperator;   Omega (n, k) standard normal from Rng(seed), k = rank + oversampling;   orth: QR.
/// 2 q + 2 products with k vectors, for certificate and verification some more; nothing larger than (m + n) k is kept.
///
/// The Frobenius error is measured, in blocks of columns, and holds always. The spectral error has the bound
///   ||E||_2 <= (10 sqrt(2 / pi) max_i ||(E E^T)^p E x_i||)^(1 / (2 p + 1))     p = 2, ten standard normal x_i
/// with probability 1 - 1e-10, and ||E||_F with probability 1: the certificate has the smaller one.
///
/// Source: Halko, Martinsson & Tropp 2011, arXiv:0909.4061, algorithms 4.4 and 5.1, lemma 4.1.
/// Compile time: that of truncated_svd.hpp, through which it is used.

#include "lora/core/random.hpp"
#include "lora/linalg/certificate.hpp"
#include "lora/linalg/exact_svd.hpp"
#include "lora/linalg/linear_operator.hpp"
#include "lora/linalg/svd_options.hpp"

#include <Eigen/QR>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace lora::detail {

/// A, brought near magnitude 1 by scaling what it is multiplied with: squares and powers neither overflow nor vanish.
template <LinearOperator Operator>
class ScaledOperator {
 public:
  using S = typename Operator::Scalar;

  ScaledOperator(const Operator& A, S scale) : A_(A), scale_(scale) {}

  Index rows() const { return A_.rows(); }
  Index cols() const { return A_.cols(); }
  Matrix<S> apply(const Matrix<S>& x) const {
    Matrix<S> y(rows(), x.cols());
    A_.apply(scale_ * x, y);
    return y;
  }
  Matrix<S> apply_transposed(const Matrix<S>& x) const {
    Matrix<S> y(cols(), x.cols());
    A_.apply_transposed(scale_ * x, y);
    return y;
  }
  /// f(first, block) for consecutive blocks of columns.
  void for_each_block(auto&& f) const {
    constexpr Index width = 128;
    Matrix<S> block;
    for (Index first = 0; first < cols(); first += width) {
      block.resize(rows(), std::min(width, cols() - first));
      A_.columns(first, block);
      block *= scale_;
      f(first, block);
    }
  }

 private:
  const Operator& A_;
  S scale_;
};

/// An orthonormal basis of at least the columns' span, as many columns as given, at most as many as rows.
template <class S>
Matrix<S> orthonormal(Matrix<S> columns) {
  const Index count = std::min(columns.rows(), columns.cols());
  const Eigen::HouseholderQR<Matrix<S>> qr(std::move(columns));
  Matrix<S> Q = Matrix<S>::Identity(qr.rows(), count);
  Q.applyOnTheLeft(qr.householderQ());
  return Q;
}

/// The SVD of A restricted to k directions: U (m, k), sigma (k), V (n, k). All of the scaled A.
template <class S>
struct Sketch {
  Matrix<S> U, V;
  Eigen::VectorXd sigma;
  bool verified = false;
};

template <class Operator>
auto sketch(const ScaledOperator<Operator>& A, Index k, int power_iterations, std::uint64_t seed) {
  using S = typename Operator::Scalar;
  Rng rng(seed);
  Matrix<S> Q = orthonormal<S>(A.apply(normal_matrix<S>(A.cols(), k, rng)));
  for (int i = 0; i < power_iterations; ++i) Q = orthonormal<S>(A.apply(orthonormal<S>(A.apply_transposed(Q))));
  // A^T Q = P T, so Q^T A = T^T P^T; the core T^T is k x k
  const Eigen::HouseholderQR<Matrix<S>> qr(A.apply_transposed(Q));
  const Index rows = std::min(qr.rows(), k);
  const Matrix<S> T = qr.matrixQR().topRows(rows).template triangularView<Eigen::Upper>();
  const ExactSvd<double> core(T.transpose().template cast<double>());
  Sketch<S> result;
  const Index count = core.singular_values().size();
  result.sigma = core.singular_values();
  result.U.noalias() = Q * core.U(count).template cast<S>();
  result.V = Matrix<S>::Identity(qr.rows(), count);
  result.V.topRows(rows) = core.V(count).template cast<S>();
  result.V.applyOnTheLeft(qr.householderQ());
  result.verified = core.verified() && result.U.allFinite() && result.V.allFinite();
  return result;
}

/// ||A||_F of the scaled A.
template <class Operator>
double frobenius_norm(const ScaledOperator<Operator>& A) {
  double sum = 0;
  A.for_each_block(
      [&](Index, const auto& block) { sum += block.colwise().squaredNorm().template cast<double>().sum(); });
  return std::sqrt(sum);
}

/// The certificate of U diag(sigma) V^T for the scaled A.
template <class Operator, class S>
Certificate certify(const ScaledOperator<Operator>& A, const Matrix<S>& U, const Eigen::VectorXd& sigma,
                    const Matrix<S>& V, std::uint64_t seed) {
  const auto s = sigma.template cast<S>().eval();
  double norm = 0;
  double error = 0;
  A.for_each_block([&](Index first, auto& block) {
    norm += block.colwise().squaredNorm().template cast<double>().sum();
    block.noalias() -= U * (s.asDiagonal() * V.middleRows(first, block.cols()).transpose()).eval();
    error += block.colwise().squaredNorm().template cast<double>().sum();
  });
  constexpr Index probes = 10;
  constexpr double factor = 10;  // each probe falls short of ||E|| by more than this with probability 1/10
  constexpr int powers = 2;
  Rng rng(seed, 1);
  Matrix<S> x = normal_matrix<S>(A.cols(), probes, rng);
  double logarithm = 0;  // of what was divided out, so that powers of a small residual do not vanish
  for (int i = 0; i <= 2 * powers; ++i) {
    const bool forward = i % 2 == 0;
    Matrix<S> y = forward ? A.apply(x) : A.apply_transposed(x);
    if (forward) {
      y.noalias() -= U * (s.asDiagonal() * (V.transpose() * x)).eval();
    } else {
      y.noalias() -= V * (s.asDiagonal() * (U.transpose() * x)).eval();
    }
    const double size = static_cast<double>(y.colwise().norm().maxCoeff());
    if (!(size > 0)) return {std::sqrt(error), 0, std::sqrt(norm), 1};
    logarithm += std::log(size);
    x = y / S(size);
  }
  const double bound = std::exp((logarithm + std::log(factor * std::sqrt(2 / std::numbers::pi))) / (2 * powers + 1));
  Certificate result{std::sqrt(error), std::sqrt(error), std::sqrt(norm), 1};
  if (bound < result.spectral_error) {
    result.spectral_error = bound;
    result.probability = 1 - 1e-10;
  }
  return result;
}

}  // namespace lora::detail
