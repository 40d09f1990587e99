#pragma once
/// Common to the losses: sizing the derivative, the caller's matrix, map or block.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"
#include "lora/kernels/columns.hpp"
#include "lora/kernels/elementwise.hpp"

#include <string_view>
#include <type_traits>

namespace lora::inline LORA_ABI::detail {

/// Makes *derivative (rows, cols), with unspecified contents. A matrix is resized, which allocates only when its size
/// changes. Throws ShapeError if a view, or an extent fixed at compile time, does not have the size already.
template <class S, class Derivative>
void size_derivative(std::string_view who, std::string_view what, Derivative& derivative, Index rows, Index cols) {
  static_assert(std::is_same_v<typename Derivative::Scalar, S>,
                "lora: the derivative of a loss has the scalar of the loss's input.");
  constexpr bool resizable = std::is_base_of_v<Eigen::PlainObjectBase<Derivative>, Derivative>;
  constexpr bool free_rows = resizable && Derivative::RowsAtCompileTime == Dynamic;
  constexpr bool free_cols = resizable && Derivative::ColsAtCompileTime == Dynamic;
  if constexpr (!free_rows) check_rows(who, what, derivative.rows(), "rows of the input", rows);
  if constexpr (!free_cols) check_cols(who, what, derivative.cols(), "samples", cols);
  if constexpr (free_rows || free_cols) derivative.resize(rows, cols);
}

/// f(columns): those of the derivative, or null if there is none. One that has no contiguous columns receives a copy.
template <class Derivative>
auto with_columns(Derivative* derivative, auto&& f) {
  using S = typename Derivative::Scalar;
  if (derivative == nullptr) return f(static_cast<MutableColumns<S>*>(nullptr));
  if constexpr (in_lines<Derivative, false>()) {
    MutableColumns<S> columns(*derivative);
    return f(&columns);
  } else {
    Matrix<S> copy(derivative->rows(), derivative->cols());
    MutableColumns<S> columns(copy);
    const auto result = f(&columns);
    *derivative = copy;
    return result;
  }
}

}  // namespace lora::inline LORA_ABI::detail
