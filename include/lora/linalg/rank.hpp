#pragma once
/// Four notions of the rank of a matrix, from its singular values sigma_1 >= sigma_2 >= ...
///
///   numerical rank   how many sigma_i are above a tolerance
///   rank for energy  the smallest r with sigma_1^2 + ... + sigma_r^2 >= share * (the sum of all squares)
///   stable rank      ||A||_F^2 / ||A||_2^2 = sum sigma_i^2 / sigma_1^2, at most the rank, robust to small noise
///   effective rank   exp(-sum p_i log p_i), p_i = sigma_i / sum sigma: r equal singular values have effective rank r
///
/// The singular values come from singular_values(A) below, from a TruncatedSvd, or from factored_svd.hpp.
/// Source: Roy & Vetterli 2007, EUSIPCO (effective rank); Rudelson & Vershynin 2007, doi 10.1145/1255443.1255449
/// (stable).
/// Compile time: the functions of singular values cost nothing; singular_values(A) costs that of exact_svd.hpp.

#include "lora/linalg/detail/matrix_view.hpp"
#include "lora/linalg/exact_svd.hpp"
#include "lora/linalg/linear_operator.hpp"
#include "lora/linalg/svd_options.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace lora::inline LORA_ABI {

/// All min(m, n) singular values, descending, in double.   Cost: as the exact truncated_svd.
/// Throws ShapeError if A is empty; ValueError naming an entry that is not finite, or if a singular value overflows.
template <class Derived>
Eigen::VectorXd singular_values(const Eigen::MatrixBase<Derived>& A) {
  using S = typename Derived::Scalar;
  return detail::with_view(A, [](const detail::MatrixView<S>& view) -> Eigen::VectorXd {
    detail::largest_magnitude("singular_values", "A", view);
    Matrix<S> dense(view.rows(), view.cols());
    DenseOperator<S>(view).columns(0, dense);
    Eigen::VectorXd sigma = ExactSvd<double>(dense.template cast<double>()).singular_values();
    if (!std::isfinite(sigma(0))) detail::fail<ValueError>("singular_values", "the largest singular value overflows");
    return sigma;
  });
}

struct NumericalRank {
  Index rank = 0;
  double tolerance = 0;  ///< singular values above it were counted
};

namespace detail {

/// Throws ShapeError without singular values, ValueError unless they are finite, descending and not negative.
template <class Derived>
void check_spectrum(const Caller& who, const Eigen::MatrixBase<Derived>& sigma) {
  check_not_empty(who, "sigma", sigma.rows(), sigma.cols());
  for (Index i = 0; i < sigma.size(); ++i) {
    const double value = static_cast<double>(sigma(i));
    if (value >= 0 && std::isfinite(value) && (i == 0 || value <= static_cast<double>(sigma(i - 1)))) continue;
    fail<ValueError>(who, "sigma(" + std::to_string(i) + ") is " + text_of(value) +
                              ", expected finite singular values from the largest to the smallest");
  }
}

}  // namespace detail

/// How many singular values are above `tolerance`.   Throws ConfigError for a negative tolerance.
template <class Derived>
NumericalRank numerical_rank(const Eigen::MatrixBase<Derived>& sigma, double tolerance)
  requires(bool(Derived::IsVectorAtCompileTime))
{
  detail::check_spectrum("numerical_rank", sigma);
  if (!(tolerance >= 0)) {
    detail::fail<ConfigError>("numerical_rank", "tolerance is " + detail::text_of(tolerance) + ", expected 0 or more");
  }
  Index rank = 0;
  while (rank < sigma.size() && static_cast<double>(sigma(rank)) > tolerance) ++rank;
  return {rank, tolerance};
}

namespace detail {

/// max(m, n) epsilon sigma_1, epsilon of S: singular values of an (m, n) matrix of S below it are rounding.
template <class S>
double rank_tolerance(Index rows, Index cols, const Eigen::VectorXd& sigma) {
  return static_cast<double>(std::max(rows, cols)) * static_cast<double>(std::numeric_limits<S>::epsilon()) * sigma(0);
}

}  // namespace detail

/// The rank of A (m, n) up to the rounding of its entries: tolerance = max(m, n) epsilon sigma_1, epsilon of A's
/// scalar.
template <class Derived>
NumericalRank numerical_rank(const Eigen::MatrixBase<Derived>& A) {
  const Eigen::VectorXd sigma = singular_values(A);
  return numerical_rank(sigma, detail::rank_tolerance<typename Derived::Scalar>(A.rows(), A.cols(), sigma));
}

/// The smallest r whose singular values have this share of the energy, at least 1.
/// Throws ConfigError unless 0 < share <= 1.
template <class Derived>
Index rank_for_energy(const Eigen::MatrixBase<Derived>& sigma, double share) {
  detail::check_spectrum("rank_for_energy", sigma);
  if (!(share > 0 && share <= 1)) {
    detail::fail<ConfigError>("rank_for_energy",
                              "share is " + detail::text_of(share) + ", expected above 0 and at most 1");
  }
  if (!(sigma(0) > 0)) return 1;
  const Eigen::VectorXd relative = sigma.template cast<double>() / static_cast<double>(sigma(0));
  return detail::choose_rank(relative, detail::allowed_error({.energy = share}, relative.norm()));
}

/// sum sigma_i^2 / sigma_1^2; 0 if all are zero.
template <class Derived>
double stable_rank(const Eigen::MatrixBase<Derived>& sigma) {
  detail::check_spectrum("stable_rank", sigma);
  if (!(sigma(0) > 0)) return 0;
  return (sigma.template cast<double>() / static_cast<double>(sigma(0))).squaredNorm();
}

/// exp(-sum p_i log p_i), p_i = sigma_i / sum sigma; 0 if all are zero.
template <class Derived>
double effective_rank(const Eigen::MatrixBase<Derived>& sigma) {
  detail::check_spectrum("effective_rank", sigma);
  if (!(sigma(0) > 0)) return 0;
  double sum = 0;
  for (Index i = 0; i < sigma.size(); ++i) sum += static_cast<double>(sigma(i)) / static_cast<double>(sigma(0));
  double entropy = 0;
  for (Index i = 0; i < sigma.size(); ++i) {
    const double p = static_cast<double>(sigma(i)) / static_cast<double>(sigma(0)) / sum;
    if (p > 0) entropy -= p * std::log(p);
  }
  return std::exp(entropy);
}

}  // namespace lora::inline LORA_ABI
