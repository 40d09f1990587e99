#pragma once
/// The error of an approximation of a matrix, and how certain it is.

#include "lora/core/scalar.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lora::inline LORA_ABI {

/// What is known about E = A - X for a matrix A and an approximation X of it.
///
/// The errors hold for the exact product of the factors that are returned, up to `rounding`:
///
///   ||E||_F <= frobenius_error + rounding,   ||E||_2 <= spectral_error + rounding
///   rounding = 4 epsilon sqrt(r) ||A||_F + 8 epsilon' sqrt(m + n) N + (m + n) d
///
///   A (m, n)    of which X has rank r
///   epsilon, d  of the scalar in which the factors are stored; d is its least positive number
///   epsilon'    of the precision of the method: double for the exact one, the factors' scalar for the others
///   N           the size of what was computed with: ||A||_F; for a product s B A of two factors the sum of
///               |s| ||b_j|| ||a_j|| over the columns of B and rows of A, which is larger if they cancel
///
/// Square roots, because roundings add up like independent errors; tests hold the bound against long double on matrices
/// that are badly scaled, rank-deficient or far from zero.
struct Certificate {
  double frobenius_error = 0;  ///< ||E||_F: from the tail of the spectrum, or measured block by block
  double spectral_error = 0;   ///< an upper bound of ||E||_2; equal to it where the method is exact
  double frobenius_norm = 0;   ///< ||A||_F
  double probability = 1;      ///< that spectral_error is a bound; frobenius_error always holds
  double rounding = 0;         ///< by how much either error may be smaller than the true one

  /// ||E||_F / ||A||_F, and 0 for A = 0.
  double relative_error() const { return frobenius_norm > 0 ? frobenius_error / frobenius_norm : 0; }

  /// The share of ||A||_F^2 that X keeps, 1 - ||E||_F^2 / ||A||_F^2.
  double energy() const { return std::max(0.0, (1 - relative_error()) * (1 + relative_error())); }
};

namespace detail {

/// Certificate::rounding of factors of scalar S, computed in Computed from numbers of size `size`.
template <class S, class Computed>
double certified_rounding(Index rows, Index cols, Index rank, double norm, double size) {
  const auto ends = static_cast<double>(rows) + static_cast<double>(cols);
  const double stored =
      4 * static_cast<double>(std::numeric_limits<S>::epsilon()) * std::sqrt(static_cast<double>(rank));
  const double computed = 8 * static_cast<double>(std::numeric_limits<Computed>::epsilon()) * std::sqrt(ends);
  return stored * norm + computed * size + ends * static_cast<double>(std::numeric_limits<S>::denorm_min());
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
