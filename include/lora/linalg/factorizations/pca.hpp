#pragma once
/// Principal components: the directions in which data varies most.
///
///   X - mean = C diag(sigma) V^T + E,   Z = C^T (X - mean),   variance_i = sigma_i^2 / (samples - 1)
///
/// X (features, samples): samples are columns.   mean (features).   C (features, k), orthonormal columns.   Z (k,
/// samples).
///
/// From the SVD of the centered data, exact or randomized, never from the covariance matrix: squaring the data would
/// lose half of the digits. By the theorem of truncated_svd.hpp no k directions leave a smaller error ||E||_F.
///
/// The mean is kept as a sum of two numbers, because data far from zero may vary by less than the rounding of its mean:
/// 10,000,001 and 10,000,000 are floats, 10,000,000.5 is none. So X - mean is right to its own rounding, however far
/// the data is from zero.
///
/// Source: Pearson 1901, doi 10.1080/14786440109462720; Hotelling 1933, doi 10.1037/h0071325.
/// Compile time: that of truncated_svd.hpp.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"
#include "lora/linalg/certificate.hpp"
#include "lora/linalg/rank.hpp"
#include "lora/linalg/svd_options.hpp"
#include "lora/linalg/truncated_svd.hpp"

#include <cmath>
#include <utility>

namespace lora::inline LORA_ABI {

template <class S>
struct Pca {
  Vector<S> mean;                            ///< (features), rounded to S
  Vector<S> mean_rest;                       ///< (features), what the rounding left: the mean is mean + mean_rest
  Matrix<S> components;                      ///< C (features, k); the signs are explained below
  Eigen::VectorXd explained_variance;        ///< (k), with divisor samples - 1
  Eigen::VectorXd explained_variance_ratio;  ///< (k), shares of the total variance; zero for constant data
  Index significant = 0;    ///< how many components vary by more than rounding: the numerical rank of rank.hpp
  Certificate certificate;  ///< of C Z as an approximation of X - mean, for the samples given to pca
  SvdMethod method = SvdMethod::exact;
  bool converged = true;

  Index rank() const { return components.cols(); }

  /// Z = C^T (X - mean), (k, samples).   Throws ShapeError if X has another number of features.
  Matrix<S> transform(const Eigen::Ref<const Matrix<S>>& X) const {
    detail::check_rows({"Pca", "transform"}, "X", X.rows(), "features", mean.size());
    return components.transpose() * ((X.colwise() - mean).colwise() - mean_rest);
  }

  /// mean + C Z, (features, samples), rounded to S.   Throws ShapeError unless Z has k rows.
  Matrix<S> inverse_transform(const Eigen::Ref<const Matrix<S>>& Z) const {
    detail::check_rows({"Pca", "inverse_transform"}, "Z", Z.rows(), "rank", rank());
    return ((components * Z).colwise() + mean_rest).colwise() + mean;
  }

  /// Z with variance 1 in every significant component; zero in the others, whose variance is rounding. Throws as
  /// transform.
  Matrix<S> whiten(const Eigen::Ref<const Matrix<S>>& X) const {
    detail::check_rows({"Pca", "whiten"}, "X", X.rows(), "features", mean.size());
    Matrix<S> Z = transform(X);
    for (Index k = 0; k < significant; ++k) Z.row(k) /= static_cast<S>(std::sqrt(explained_variance(k)));
    Z.bottomRows(rank() - significant).setZero();
    return Z;
  }

  /// X from whiten(X), up to the part that the components do not span. Throws ShapeError unless Z has k rows.
  Matrix<S> inverse_whiten(const Eigen::Ref<const Matrix<S>>& Z) const {
    detail::check_rows({"Pca", "inverse_whiten"}, "Z", Z.rows(), "rank", rank());
    return inverse_transform(explained_variance.cwiseSqrt().template cast<S>().asDiagonal() * Z);
  }
};

namespace detail {

/// Makes the first entry of u that is within 1 % of the largest magnitude positive. Not simply the largest: of the
/// direction (1, -1) / sqrt(2), rounding would choose.
template <class S>
void fix_sign(Eigen::Ref<Vector<S>> u) {
  const S limit = S(0.99) * u.cwiseAbs().maxCoeff();
  Index first = 0;
  while (first + 1 < u.size() && std::abs(u(first)) < limit) ++first;
  if (u(first) < S(0)) u *= S(-1);
}

}  // namespace detail

/// The principal components of X for a rank, a share of the variance ({.energy = 0.95}) or a relative error.
///
/// Means are summed in double, three times, each time over what the last sum left: constant features have no variance
/// at all, and no variance is lost far from zero. Needs a centered copy of X, in S. The sign of a direction is
/// arbitrary; here the first entry whose magnitude is within 1 % of the largest is positive, for every method, scalar
/// and platform. Directions of equal variance are arbitrary beyond their signs.
/// Throws ShapeError for fewer than two samples or no features, ValueError naming an entry that is not finite or if X
/// less its mean, a singular value or a variance overflows, ConfigError for options out of range.
template <class Derived>
auto pca(const Eigen::MatrixBase<Derived>& X, const SvdOptions& options) -> Pca<typename Derived::Scalar> {
  using S = typename Derived::Scalar;
  detail::check_not_empty("pca", "X", X.rows(), X.cols());
  if (X.cols() < 2) detail::fail<ShapeError>("pca", "X has 1 column, expected at least 2 samples");
  Matrix<S> centered = X;
  detail::with_view(centered, [](const auto& view) { detail::largest_magnitude("pca", "X", view); });

  const auto samples = static_cast<double>(centered.cols());
  Pca<S> result;
  const auto exact = centered.template cast<double>();
  const Eigen::VectorXd mean = (exact / samples).rowwise().sum();
  const Eigen::VectorXd rest = ((exact.colwise() - mean) / samples).rowwise().sum();
  result.mean = (mean + rest).template cast<S>();  // for a constant feature exactly that constant
  // entries near the mean less the mean are exact, so this sum is the rest of the mean to its own rounding
  const Eigen::VectorXd rounded = result.mean.template cast<double>();
  result.mean_rest = ((exact.colwise() - rounded) / samples).rowwise().sum().template cast<S>();
  centered = (centered.colwise() - result.mean).colwise() - result.mean_rest;
  auto svd = detail::truncated_svd(
      DenseOperator<S>(
          {{centered.data(), centered.rows(), centered.cols(), Eigen::OuterStride<>(centered.rows())}, false}),
      options, "pca", "(X - mean)");
  for (Index k = 0; k < svd.rank(); ++k) detail::fix_sign<S>(svd.U.col(k));
  const double norm = svd.certificate.frobenius_norm;
  const Eigen::VectorXd sigma = svd.spectrum.head(svd.rank());  // in double, where the singular values are rounded to S
  result.explained_variance = (sigma / std::sqrt(samples - 1)).cwiseAbs2();
  if (!result.explained_variance.allFinite()) detail::fail<ValueError>("pca", "the variance overflows");
  result.explained_variance_ratio = (sigma / (norm > 0 ? norm : 1)).cwiseAbs2();
  result.significant = numerical_rank(sigma, detail::rank_tolerance<S>(centered.rows(), centered.cols(), sigma)).rank;
  while (result.significant > 0 && !(result.explained_variance(result.significant - 1) > 0)) --result.significant;
  result.components = std::move(svd.U);
  result.certificate = svd.certificate;
  result.method = svd.method;
  result.converged = svd.converged;
  return result;
}

}  // namespace lora::inline LORA_ABI
