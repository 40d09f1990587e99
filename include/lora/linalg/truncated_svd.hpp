#pragma once
/// The best approximation of rank r, with a certificate of its error.
///
///   A_r = U diag(sigma) V^T     A (m, n),  U (m, r),  sigma (r),  V (n, r)
///
/// No matrix of rank r is nearer to A than A_r of the exact method, in the Frobenius or the spectral norm:
///   ||A - A_r||_F = sqrt(sigma_{r+1}^2 + sigma_{r+2}^2 + ...),   ||A - A_r||_2 = sigma_{r+1}.
///
/// Source: Eckart & Young 1936, doi 10.1007/BF02288367; Mirsky 1960, doi 10.1093/qmath/11.1.50.
/// Compile time (g++ 12 -O2): 0.2 s over Eigen/Core to include; to use, that of exact_svd.hpp, which tells how to pay
/// once in a program, and 9 s for each scalar.

#include "lora/linalg/certificate.hpp"
#include "lora/linalg/detail/any_operator.hpp"
#include "lora/linalg/detail/matrix_view.hpp"
#include "lora/linalg/detail/randomized_svd.hpp"
#include "lora/linalg/exact_svd.hpp"
#include "lora/linalg/linear_operator.hpp"
#include "lora/linalg/svd_options.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

namespace lora::inline LORA_ABI {

/// U and V have orthonormal columns, also where sigma is 0.
template <class S>
struct TruncatedSvd {
  Matrix<S> U;                          ///< (m, r)
  Vector<S> singular_values;            ///< (r), descending
  Matrix<S> V;                          ///< (n, r)
  Certificate certificate;              ///< of U diag(singular_values) V^T
  SvdMethod method = SvdMethod::exact;  ///< the one that was used
  Eigen::VectorXd spectrum;  ///< exact: all singular values of A; randomized: of the k directions, each at most A's own
  bool fell_back = false;    ///< a faster method failed its verification or error limit; a slower one replaced it
  bool converged = true;     ///< whether the result passed its verification

  Index rank() const { return singular_values.size(); }
  Matrix<S> matrix() const { return U * singular_values.asDiagonal() * V.transpose(); }
};

namespace detail {

/// Throws ValueError if the largest singular value of a matrix of S is too large for S, or the norm for double.
template <class S>
void check_representable(double largest, double norm, const Caller& who) {
  if (!(largest <= static_cast<double>(std::numeric_limits<S>::max()))) {
    fail<ValueError>(who, "the largest singular value overflows the matrix's scalar type");
  }
  if (!std::isfinite(norm)) fail<ValueError>(who, "the Frobenius norm overflows");
}

/// Truncates an exact decomposition.
template <class S>
TruncatedSvd<S> truncate(const ExactSvd<double>& svd, const SvdOptions& options, const Caller& who) {
  const auto& sigma = svd.singular_values();
  const double norm = tail(sigma, 0, svd.dropped());
  check_representable<S>(sigma(0), norm, who);
  const Index rank = options.rank ? *options.rank : choose_rank(sigma, allowed_error(options, norm));
  const double next = rank < sigma.size() ? sigma(rank) : 0.0;
  TruncatedSvd<S> result;
  result.U = svd.U(rank).template cast<S>();
  result.singular_values = sigma.head(rank).template cast<S>();
  result.V = svd.V(rank).template cast<S>();
  result.certificate = {tail(sigma, rank, svd.dropped()), std::hypot(next, svd.dropped()), norm, 1,
                        certified_rounding<S, double>(result.U.rows(), result.V.rows(), rank, norm, norm)};
  result.spectrum = sigma;
  result.fell_back = svd.fell_back();
  result.converged = svd.verified();
  return result;
}

/// The randomized method. Returns nothing if its core fails, if an energy or error needs so many directions that the
/// exact method is better, or if the measured error is above the limit.   scale: from scale_of.
template <class S>
std::optional<TruncatedSvd<S>> try_randomized(const AnyOperator<S>& A, const SvdOptions& options, S scale,
                                              const Caller& who) {
  const ScaledOperator<S> scaled(A, scale);
  const Index smaller = std::min(A.rows(), A.cols());
  const double norm = options.rank ? 0 : frobenius_norm(scaled);
  for (Index wanted = options.rank.value_or(32);; wanted *= 2) {
    const Index k = std::min(wanted + std::min(options.oversampling.value_or(4 + wanted / 8), smaller), smaller);
    const Sketch<S> found = sketch(scaled, k, options.power_iterations, options.seed);
    if (!found.verified()) return std::nullopt;
    Index rank = wanted;
    if (!options.rank) {
      const double seen = std::min(found.sigma().norm(), norm);
      const double unseen = std::sqrt((norm - seen) * (norm + seen));
      const double allowed = allowed_error(options, norm);
      rank = choose_rank(found.sigma(), allowed, unseen);
      if (unseen > allowed || rank > wanted) {  // the directions beyond `wanted` are not accurate enough
        if (2 * wanted > smaller) return std::nullopt;
        continue;
      }
    }
    const Eigen::VectorXd sigma = found.sigma().head(rank);
    TruncatedSvd<S> result;
    result.method = SvdMethod::randomized;
    result.U = found.U(rank);
    result.V = found.V(rank);
    if (!result.U.allFinite() || !result.V.allFinite()) return std::nullopt;
    result.certificate = certify(scaled, result.U, sigma, result.V, options.seed);
    if (!options.rank) {  // a small error is a difference of two norms, which their rounding can hide
      const double measured = result.certificate.frobenius_norm;
      const double rounding = 4 * static_cast<double>(std::numeric_limits<S>::epsilon()) * measured;
      if (result.certificate.frobenius_error > allowed_error(options, measured) + rounding) return std::nullopt;
    }
    const double back = 1 / static_cast<double>(scale);
    check_representable<S>(sigma(0) * back, result.certificate.frobenius_norm * back, who);
    result.singular_values = (sigma * back).template cast<S>();
    result.spectrum = found.sigma() * back;
    result.certificate.frobenius_error *= back;
    result.certificate.spectral_error *= back;
    result.certificate.frobenius_norm *= back;
    result.certificate.rounding = certified_rounding<S, S>(A.rows(), A.cols(), rank, result.certificate.frobenius_norm,
                                                           result.certificate.frobenius_norm);
    return result;
  }
}

/// Whether the matrix is large enough for the randomized method to pay, and the rank small enough for its error to stay
/// within 3 % of the min on any spectrum.
inline bool randomized_pays(const SvdOptions& options, Index rows, Index cols) {
  const Index smaller = std::min(rows, cols);
  constexpr double worthwhile = 512.0 * 512.0 * 512.0;
  return options.rank && 16 * *options.rank <= smaller &&
         static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(smaller) >= worthwhile;
}

/// name: what messages call A.
template <class S>
TruncatedSvd<S> truncated_svd(const AnyOperator<S>& A, const SvdOptions& options, const Caller& who,
                              std::string_view name) {
  const S largest = largest_magnitude(who, name, A);
  validate(options, std::min(A.rows(), A.cols()), who);
  const bool randomize = options.method == SvdMethod::randomized ||
                         (options.method == SvdMethod::automatic && randomized_pays(options, A.rows(), A.cols()));
  if (randomize) {
    if (auto result = try_randomized(A, options, scale_of(largest), who)) return std::move(*result);
  }
  Matrix<S> dense(A.rows(), A.cols());
  A.columns(0, dense);
  TruncatedSvd<S> result = truncate<S>(ExactSvd<double>(dense.template cast<double>()), options, who);
  result.fell_back = result.fell_back || randomize;
  return result;
}

template <LinearOperator Operator>
auto truncated_svd(const Operator& A, const SvdOptions& options, const Caller& who, std::string_view name = "A") {
  return truncated_svd<typename Operator::Scalar>(OperatorReference<Operator>(A), options, who, name);
}

}  // namespace detail

/// The best approximation of A by a matrix of the rank, energy share or error that the options ask for.
///
/// ```cpp
/// #include <lora/linalg/truncated_svd.hpp>
///
/// int main() {
///   const Eigen::MatrixXd A = Eigen::MatrixXd::Random(60, 40);
///   const lora::TruncatedSvd<double> svd = lora::truncated_svd(A, {.rank = 8});
///   const double error = (A - svd.matrix()).norm();  // svd.certificate knows it without this product
///   const auto energy = lora::truncated_svd(A, {.energy = 0.95});  // the smallest rank that keeps 95 % of ||A||_F^2
///   const auto close = lora::truncated_svd(A, {.error = 0.01});    // the smallest rank within 1 % of ||A||_F
///   if (std::abs(error - svd.certificate.frobenius_error) > 1e-12 * A.norm()) return 1;
///   return energy.rank() < close.rank() ? 0 : 1;
/// }
/// ```
///
/// A: any matrix or expression of float or double, of any storage order and stride. The automatic method is the
/// randomized one for a rank of at most min(m, n) / 16 of a matrix with m n min(m, n) >= 512^3, which is many times
/// faster, and on any spectrum within 3 % of the min error; else the exact one. result.method says which was used.
/// Beyond the rank of A, singular values are zero (or rounding) and U, V stay orthonormal. A zero matrix has rank 1
/// here.
///
/// Exact: about 4 m n^2 + 20 n^3 operations in double for m >= n. Randomized: 2 m n k (2 q + 1) + O((m + n) K^2 + K^3)
/// with k = rank + oversampling, q = power_iterations, K = k q, and 90 m n for the certificate's spectral bound.
/// Throws ShapeError if A is empty; ValueError naming an entry that is not finite, or if a singular value overflows the
/// scalar type or the norm double; ConfigError for options out of range.
template <class Derived>
auto truncated_svd(const Eigen::MatrixBase<Derived>& A, const SvdOptions& options)
    -> TruncatedSvd<typename Derived::Scalar> {
  using S = typename Derived::Scalar;
  return detail::with_view(A, [&](const detail::MatrixView<S>& view) {
    return detail::truncated_svd(DenseOperator<S>(view), options, "truncated_svd");
  });
}

/// As above for a matrix-free operator. The exact method forms the matrix.
template <LinearOperator Operator>
auto truncated_svd(const Operator& A, const SvdOptions& options) -> TruncatedSvd<typename Operator::Scalar> {
  return detail::truncated_svd(A, options, "truncated_svd");
}

}  // namespace lora::inline LORA_ABI
