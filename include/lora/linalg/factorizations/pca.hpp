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
  Vector<S> mean;                            ///< (features)
  Matrix<S> components;                      ///< C (features, k); the largest entry of each column is positive
  Eigen::VectorXd explained_variance;        ///< (k), with divisor samples - 1
  Eigen::VectorXd explained_variance_ratio;  ///< (k), shares of the total variance; zero for constant data
  Index significant = 0;    ///< how many components vary by more than rounding: the numerical rank of rank.hpp
  Certificate certificate;  ///< of mean + C Z for the samples given to pca
  SvdMethod method = SvdMethod::exact;
  bool converged = true;

  Index rank() const { return components.cols(); }

  /// Z = C^T (X - mean), (k, samples).   Throws ShapeError if X has another number of features.
  Matrix<S> transform(const Eigen::Ref<const Matrix<S>>& X) const {
    detail::check_rows({"Pca", "transform"}, "X", X.rows(), "features", mean.size());
    return components.transpose() * (X.colwise() - mean);
  }

  /// mean + C Z, (features, samples).   Throws ShapeError unless Z has k rows.
  Matrix<S> inverse_transform(const Eigen::Ref<const Matrix<S>>& Z) const {
    detail::check_rows({"Pca", "inverse_transform"}, "Z", Z.rows(), "rank", rank());
    return (components * Z).colwise() + mean;
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

/// The principal components of X for a rank, a share of the variance ({.energy = 0.95}) or a relative error.
///
/// Means are summed in double, twice: constant features have no variance at all. Needs a centered copy of X.
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
  centered.colwise() -= result.mean;
  auto svd = detail::truncated_svd(
      DenseOperator<S>(
          {{centered.data(), centered.rows(), centered.cols(), Eigen::OuterStride<>(centered.rows())}, false}),
      options, "pca", "(X - mean)");
  // the sign of a direction is arbitrary; this choice is the same for every method and platform
  for (Index k = 0; k < svd.rank(); ++k) {
    Index largest = 0;
    svd.U.col(k).cwiseAbs().maxCoeff(&largest);
    if (svd.U(largest, k) < S(0)) svd.U.col(k) *= S(-1);
  }
  const double norm = svd.certificate.frobenius_norm;
  const Eigen::VectorXd sigma = svd.singular_values.template cast<double>();
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
