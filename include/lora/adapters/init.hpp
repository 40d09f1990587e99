#pragma once
/// Initial values that depend on neither W0 nor data.

#include "lora/adapters/lora_config.hpp"
#include "lora/core/random.hpp"

#include <cmath>

namespace lora::inline LORA_ABI {

/// Fills `matrix` row by row with normal numbers of mean 0: the same numbers for every storage order.
template <class Derived>
void fill_normal(Eigen::MatrixBase<Derived>& matrix, double standard_deviation, Rng& rng) {
  using S = typename Derived::Scalar;
  for (Index i = 0; i < matrix.rows(); ++i) {
    for (Index j = 0; j < matrix.cols(); ++j) matrix(i, j) = S(standard_deviation) * rng.normal<S>();
  }
}

/// Fills `matrix` row by row with uniform numbers in (-bound, bound).
template <class Derived>
void fill_uniform(Eigen::MatrixBase<Derived>& matrix, double bound, Rng& rng) {
  using S = typename Derived::Scalar;
  for (Index i = 0; i < matrix.rows(); ++i) {
    for (Index j = 0; j < matrix.cols(); ++j) matrix(i, j) = S(rng.uniform<double>(-bound, bound));
  }
}

/// Initializes A (rank, in): Gaussian with standard deviation 1/rank, or Kaiming-uniform with a = sqrt(5), which is
/// uniform in (-1/sqrt(in), 1/sqrt(in)).
template <class Derived>
void initialize_a(Eigen::MatrixBase<Derived>& A, Init init, Rng& rng) {
  switch (init) {
    case Init::gaussian: return fill_normal(A, 1.0 / static_cast<double>(A.rows()), rng);
    case Init::kaiming_uniform: return fill_uniform(A, 1.0 / std::sqrt(static_cast<double>(A.cols())), rng);
  }
}

}  // namespace lora::inline LORA_ABI
