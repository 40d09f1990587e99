#pragma once
/// Non-negative matrix factorization: a matrix of non-negative numbers as a sum of k non-negative parts.
///
///   X ~ W H,   minimize D(X, W H) over W, H >= 0      X (m, n),  W (m, k),  H (k, n)
///
/// The columns of W are parts (of a digit: strokes), the columns of H say how much of each a sample has. Unlike the
/// truncated SVD it has neither a closed nor a unique solution: the result is close to a stationary point that depends
/// on the start, and `residual` measures how close. Losses: nmf_options.hpp; starts: detail/nmf_start.hpp; iterations:
/// detail/nmf_hals.hpp (Frobenius) and detail/nmf_newton.hpp (Kullback-Leibler).
///
/// Source: Paatero & Tapper 1994, doi 10.1002/env.3170050203; Lee & Seung 1999, doi 10.1038/44565.
/// Compile time (g++ 12 -O2): 0.1 s over truncated_svd.hpp to include; to use, for each scalar, 15 s from a given start
/// and 28 s with NmfStart, plus the SVD, whose cost exact_svd.hpp tells how to pay once in a program.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"
#include "lora/linalg/detail/matrix_view.hpp"
#include "lora/linalg/factorizations/detail/nmf_hals.hpp"
#include "lora/linalg/factorizations/detail/nmf_measure.hpp"
#include "lora/linalg/factorizations/detail/nmf_newton.hpp"
#include "lora/linalg/factorizations/detail/nmf_start.hpp"
#include "lora/linalg/factorizations/nmf_options.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace lora::inline LORA_ABI {

template <class S>
struct Nmf {
  Matrix<S> W;             ///< (m, k), no entry negative
  Matrix<S> H;             ///< (k, n), no entry negative
  int iterations = 0;      ///< each updates all of W, then all of H
  double loss = 0;         ///< of these factors, evaluated in double: see NmfLoss
  double residual = 0;     ///< of these factors: the largest relative gradient of a column, 0 if stationary
  bool converged = false;  ///< whether the tolerance, or rounding, was reached within max_iterations

  Index rank() const { return W.cols(); }
  Matrix<S> matrix() const { return W * H; }
};

namespace detail {

/// max x_ij.   Throws ShapeError if X is empty, ValueError naming an entry that is negative or not finite.
template <class S>
S largest_non_negative(const Caller& who, std::string_view name, const MatrixView<S>& X) {
  const S largest = largest_magnitude(who, name, X);
  for (Index j = 0; j < X.stored.cols(); ++j) {
    Index i = 0;
    const S least = X.stored.col(j).minCoeff(&i);
    if (least >= S(0)) continue;
    fail<ValueError>(who, std::string(name) + "(" + std::to_string(X.transposed ? j : i) + ", " +
                              std::to_string(X.transposed ? i : j) + ") is " + text_of(least) + ", expected 0 or more");
  }
  return largest;
}

/// A power of 4 that brings `largest` near 1: W and H are each scaled by its square root.
template <class S>
S even_scale_of(S largest) {
  const S scale = scale_of(largest);
  int exponent = 0;
  std::frexp(scale, &exponent);  // scale = 2^(exponent - 1)
  return (exponent - 1) % 2 == 0 ? scale : scale / 2;
}

/// Rescales components whose w_t and h_t differ by more than 2^8 in magnitude to about the same, by a power of two:
/// their product does not change, and the products W^T W and H H^T stay in the range of the scalar.
template <class S>
void balance(NmfFactors<S>& factors) {
  for (Index t = 0; t < factors.W.cols(); ++t) {
    const S w = factors.W.col(t).maxCoeff(), h = factors.Ht.col(t).maxCoeff();
    int w_exponent = 0, h_exponent = 0;
    std::frexp(w, &w_exponent);
    std::frexp(h, &h_exponent);
    if (std::abs(h_exponent - w_exponent) <= 8) continue;
    const int shift = (h_exponent - w_exponent) / 2;
    factors.W.col(t) = factors.W.col(t).unaryExpr([shift](S x) { return std::ldexp(x, shift); });
    factors.Ht.col(t) = factors.Ht.col(t).unaryExpr([shift](S x) { return std::ldexp(x, -shift); });
  }
}

/// Throws ValueError if W0 H0 may be so much larger than X that the squares of its entries overflow.
/// large_X, large_W, large_H: the largest entries.
template <class S>
void check_start_size(const Caller& who, const NmfOptions& options, double large_X, double large_W, double large_H,
                      Index extent) {
  const double limit = std::sqrt(static_cast<double>(std::numeric_limits<S>::max())) / static_cast<double>(extent);
  const double times = large_X > 0 ? large_W / std::sqrt(large_X) * (large_H / std::sqrt(large_X)) : large_W * large_H;
  if (static_cast<double>(options.rank) * times <= limit) return;
  fail<ValueError>(
      who, "the entries of W0 H0 may reach " + text_of(static_cast<double>(options.rank) * large_W * large_H) +
               " where those of X reach " + text_of(large_X) + ", too far above to compare; scale the start down");
}

/// Runs the iterations from factors of scale * X.
template <class S>
Nmf<S> nmf(const MatrixView<S>& X, S scale, NmfFactors<S> factors, const NmfOptions& options) {
  balance(factors);
  if (options.loss == NmfLoss::kullback_leibler) make_finite(X, scale, factors);
  Nmf<S> result;
  const auto run = [&](auto solver) {
    constexpr double rounding = 4 * static_cast<double>(std::numeric_limits<S>::epsilon());
    double first = 0;
    while (!result.converged && result.iterations < options.max_iterations) {
      const auto [met, size] = solver.iterate(factors);
      // a start that is a solution meets only rounding; an infinitely far one would make any tolerance too large
      if (result.iterations++ == 0) first = std::min(met, size);
      result.converged = met <= std::max(options.tolerance * first, rounding * size);
    }
  };
  if (options.loss == NmfLoss::frobenius) {
    run(HalsSolver<S>(X, scale, options.rank, options.sweeps));
  } else {
    run(NewtonSolver<S>(X, scale, options.rank));
  }
  const NmfMeasure found = measure(X, scale, factors, options.loss);
  const S back = 1 / std::sqrt(scale);  // a power of two
  result.W = back * factors.W;
  result.H = back * factors.Ht.transpose();
  result.loss = found.loss;
  result.residual = found.residual;
  return result;
}

}  // namespace detail

/// The factorization of X for a rank k, from the start that the options name.
///
///   nmf(X, {.rank = 16})     nmf(X, {.rank = 16, .loss = NmfLoss::kullback_leibler, .start = NmfStart::random})
///
/// X: any matrix or expression of float or double, of any storage order and stride. No iteration raises the loss. Both
/// losses have exact zeros in W and H and can leave them again; for the divergence, zeros of a start are raised to
/// sqrt(mean(X) / k) / 100 if W H would be zero under a positive entry of X, where the divergence is infinite.
/// Works on scale * X and scales back, with a power of 4, which is exact, so that the magnitude of X does not matter.
///
/// Cost of an iteration: 4 m n k operations in products and (m + n) k^2 for each sweep (Frobenius), 2 m n k divisions
/// (Kullback-Leibler); of the start: that of truncated_svd. Memory: factors and their products, (m + n) k each; nothing
/// of the size of X.
/// Throws ShapeError if X is empty; ValueError naming an entry that is negative or not finite, or if the largest
/// singular value, which NNDSVD needs, overflows the scalar; ConfigError for options out of range. Failure to converge
/// is not an error but a field of the result.
template <class Derived>
auto nmf(const Eigen::MatrixBase<Derived>& X, const NmfOptions& options) -> Nmf<typename Derived::Scalar> {
  using S = typename Derived::Scalar;
  return detail::with_view(X, [&](const detail::MatrixView<S>& view) {
    const detail::Caller who = "nmf";
    const S scale = detail::even_scale_of(detail::largest_non_negative(who, "X", view));
    validate(options, std::min(view.rows(), view.cols()), who);
    return detail::nmf(view, scale,
                       options.start == NmfStart::random ? detail::random_start(view, scale, options)
                                                         : detail::nndsvd_start(view, scale, options, who),
                       options);
  });
}

/// As above from a given start, W0 (m, k) and H0 (k, n); options.start and options.seed are not used.
///
/// Also throws ShapeError if W0 or H0 does not fit; ValueError naming an entry of them that is negative or not finite,
/// or if W0 H0 may be so much larger than X that its squares overflow.
template <class Derived>
auto nmf(const Eigen::MatrixBase<Derived>& X, const NmfOptions& options,
         const Eigen::Ref<const Matrix<typename Derived::Scalar>>& W0,
         const Eigen::Ref<const Matrix<typename Derived::Scalar>>& H0) -> Nmf<typename Derived::Scalar> {
  using S = typename Derived::Scalar;
  return detail::with_view(X, [&](const detail::MatrixView<S>& view) {
    const detail::Caller who = "nmf";
    const S largest = detail::largest_non_negative(who, "X", view);
    const S scale = detail::even_scale_of(largest);
    validate(options, std::min(view.rows(), view.cols()), who);
    detail::check_rows(who, "W0", W0.rows(), "X.rows()", view.rows());
    detail::check_cols(who, "W0", W0.cols(), "rank", options.rank);
    detail::check_rows(who, "H0", H0.rows(), "rank", options.rank);
    detail::check_cols(who, "H0", H0.cols(), "X.cols()", view.cols());
    const S large_W = detail::with_view(W0, [&](const auto& W) { return detail::largest_non_negative(who, "W0", W); });
    const S large_H = detail::with_view(H0, [&](const auto& H) { return detail::largest_non_negative(who, "H0", H); });
    detail::check_start_size<S>(who, options, largest, large_W, large_H, std::max(view.rows(), view.cols()));
    const S root = std::sqrt(scale);  // a power of two
    return detail::nmf(view, scale, detail::NmfFactors<S>{root * W0, root * H0.transpose()}, options);
  });
}

}  // namespace lora::inline LORA_ABI
