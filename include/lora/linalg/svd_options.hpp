#pragma once
/// The options of a truncated SVD, and the smallest rank that satisfies them.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>

namespace lora::inline LORA_ABI {

enum class SvdMethod {
  automatic,   ///< randomized if that saves much: see truncated_svd
  exact,       ///< the best approximation, to rounding
  randomized,  ///< nearly the best, for a small rank of a large matrix
};

/// Exactly one of the first three: {.rank = 8}, {.energy = 0.95} or {.error = 0.01}.
struct SvdOptions {
  std::optional<Index> rank = {};     ///< 1 to min(m, n)
  std::optional<double> energy = {};  ///< the smallest rank that keeps this share of ||A||_F^2, in (0, 1]
  std::optional<double> error = {};   ///< the smallest rank with ||A - A_r||_F <= error ||A||_F, at least 0
  SvdMethod method = SvdMethod::automatic;
  std::optional<Index> oversampling = {};  ///< randomized: extra directions beyond the rank; default: 4 + rank / 8
  int power_iterations = 2;                ///< randomized: at least 1; more of them sharpen slowly decaying spectra
  std::uint64_t seed = 0;                  ///< randomized: the same seed gives the same result
};

/// Throws ConfigError for an option out of range.
inline void validate(const SvdOptions& options, Index largest_rank, const detail::Caller& who) {
  const int given = int(options.rank.has_value()) + int(options.energy.has_value()) + int(options.error.has_value());
  if (given != 1) {
    detail::fail<ConfigError>(who,
                              std::to_string(given) + " of rank, energy and error are given, expected exactly one");
  }
  if (options.rank && (*options.rank < 1 || *options.rank > largest_rank)) {
    detail::fail<ConfigError>(
        who, "rank is " + std::to_string(*options.rank) + ", expected 1 to " + std::to_string(largest_rank));
  }
  if (options.energy && !(*options.energy > 0 && *options.energy <= 1)) {
    detail::fail<ConfigError>(who,
                              "energy is " + detail::text_of(*options.energy) + ", expected above 0 and at most 1");
  }
  if (options.error && !(*options.error >= 0)) {
    detail::fail<ConfigError>(who, "error is " + detail::text_of(*options.error) + ", expected 0 or more");
  }
  if (options.oversampling && *options.oversampling < 0) {
    detail::fail<ConfigError>(who, "oversampling is " + std::to_string(*options.oversampling) + ", expected 0 or more");
  }
  if (options.power_iterations < 1) {
    detail::fail<ConfigError>(
        who, "power_iterations is " + std::to_string(options.power_iterations) + ", expected 1 or more");
  }
}

namespace detail {

/// sqrt(rest^2 + sum_{i > first} sigma_i^2), summed from the smallest up and without overflow.   sigma: descending.
template <class Derived>
double tail(const Eigen::MatrixBase<Derived>& sigma, Index first, double rest = 0) {
  const double largest = std::max(rest, first < sigma.size() ? static_cast<double>(sigma(first)) : 0.0);
  if (!(largest > 0)) return 0;
  double sum = (rest / largest) * (rest / largest);
  for (Index i = sigma.size() - 1; i >= first; --i) {
    const double ratio = static_cast<double>(sigma(i)) / largest;
    sum += ratio * ratio;
  }
  return largest * std::sqrt(sum);
}

/// The Frobenius error that `options` allow for a matrix of this norm, by energy or error.
inline double allowed_error(const SvdOptions& options, double norm) {
  return norm * (options.energy ? std::sqrt(1 - *options.energy) : *options.error);
}

/// The smallest rank, at least 1, whose tail(sigma, rank, rest) is at most `allowed`; sigma.size() if none is. Equality
/// up to rounding counts as reached.   sigma: descending, not empty.
template <class Derived>
Index choose_rank(const Eigen::MatrixBase<Derived>& sigma, double allowed, double rest = 0) {
  const double largest = std::max(rest, static_cast<double>(sigma(0)));
  if (!(largest > 0)) return 1;
  const double slack = 1 + 16 * std::numeric_limits<double>::epsilon() * static_cast<double>(sigma.size());
  double sum = (rest / largest) * (rest / largest);
  Index rank = sigma.size();
  while (rank > 1) {
    const double ratio = static_cast<double>(sigma(rank - 1)) / largest;
    sum += ratio * ratio;
    if (largest * std::sqrt(sum) > allowed * slack) break;
    --rank;
  }
  return rank;
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
