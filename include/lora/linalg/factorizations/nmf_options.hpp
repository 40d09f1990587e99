#pragma once
/// The options of a non-negative factorization.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"

#include <cmath>
#include <cstdint>
#include <string>

namespace lora::inline LORA_ABI {

/// The distance between X and Y = W H, summed over all entries.
enum class NmfLoss {
  frobenius,         ///< (x - y)^2 / 2
  kullback_leibler,  ///< x log(x / y) - x + y, with 0 log 0 = 0: the generalised divergence, for counts
};

/// The initial factors: see detail/nmf_start.hpp.
enum class NmfStart {
  nndsvd,  ///< from the singular vectors of X: deterministic, sparse
  random,  ///< absolute values of normal numbers
};

struct NmfOptions {
  Index rank = 0;  ///< k, 1 to min(m, n): with min(m, n) every X is exact already (X = X I or I X)
  NmfLoss loss = NmfLoss::frobenius;
  NmfStart start = NmfStart::nndsvd;
  /// Converged once  met <= max(tolerance min(met_1, size_1), 4 epsilon size):  met is sum |projected gradient| of an
  /// iteration, size the sum of the terms whose differences these gradients are, met_1 and size_1 those of the first.
  double tolerance = 1e-4;
  int max_iterations = 200;  ///< 0 returns the start
  std::uint64_t seed = 0;    ///< of the random start, or of the SVD of NNDSVD; the same seed gives the same result
  int sweeps = 0;            ///< Frobenius: sweeps for each product with X; 0: as many as pay, 1: plain HALS
};

/// Throws ConfigError for an option out of range.
inline void validate(const NmfOptions& options, Index largest_rank, const detail::Caller& who) {
  if (options.rank < 1 || options.rank > largest_rank) {
    detail::fail<ConfigError>(
        who, "rank is " + std::to_string(options.rank) + ", expected 1 to " + std::to_string(largest_rank));
  }
  if (!(options.tolerance >= 0 && std::isfinite(options.tolerance))) {
    detail::fail<ConfigError>(who, "tolerance is " + detail::text_of(options.tolerance) + ", expected 0 or more");
  }
  if (options.max_iterations < 0) {
    detail::fail<ConfigError>(who,
                              "max_iterations is " + std::to_string(options.max_iterations) + ", expected 0 or more");
  }
  if (options.sweeps < 0) {
    detail::fail<ConfigError>(who, "sweeps is " + std::to_string(options.sweeps) + ", expected 0 or more");
  }
}

}  // namespace lora::inline LORA_ABI
