#pragma once
/// Generic values at which laws are checked, so that nothing is zero, equal or symmetric by accident.

#include "lora/core/random.hpp"
#include "lora/core/visit.hpp"

#include <type_traits>

namespace lora::inline LORA_ABI::testing {

/// A (rows, cols) matrix of standard normal numbers.
template <class S = double>
Matrix<S> random_matrix(Index rows, Index cols, Rng& rng) {
  Matrix<S> matrix(rows, cols);
  for (Index j = 0; j < cols; ++j) {
    for (Index i = 0; i < rows; ++i) matrix(i, j) = rng.normal<S>();
  }
  return matrix;
}

/// Gives every parameter standard normal values times `size`: generic, and nowhere zero.
template <class Model>
void fill_parameters(Model& model, Rng& rng, double size = 1) {
  visit_parameters(model, [&](const Path&, auto& parameter) {
    using S = typename std::remove_reference_t<decltype(parameter)>::Scalar;
    for (Index j = 0; j < parameter.value.cols(); ++j) {
      for (Index i = 0; i < parameter.value.rows(); ++i) parameter.value(i, j) = S(size) * rng.normal<S>();
    }
  });
}

}  // namespace lora::inline LORA_ABI::testing
