#pragma once
/// A tensor that may be trained, with its gradient beside it.

#include "lora/core/scalar.hpp"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI {

/// value: the elements. grad: dL/dvalue, of the same shape, or empty until a backward pass has reached it. trainable:
/// if false, backward passes skip its gradient and optimizers leave it alone.
template <class S, int Rows = Dynamic, int Cols = Dynamic, class Value = Matrix<S, Rows, Cols>>
struct Parameter {
  static_assert(detail::require_storable<S, Rows, Cols>());
  using Scalar = S;

  Value value;
  Value grad;
  bool trainable = true;

  Parameter() { clear_fixed_gradient(); }
  explicit Parameter(Value initial) : value(std::move(initial)) { clear_fixed_gradient(); }

  /// The gradient to accumulate into, allocated as zeros by the first call. Backward passes always add (+=), because a
  /// parameter that is used twice has the sum of two gradients; zero_gradients(model) resets it.
  Value& gradient() {
    if (grad.size() != value.size()) grad.setZero(value.rows(), value.cols());
    return grad;
  }

  /// Frees the memory of the gradient; with compile-time sizes, which own none, sets it to zero.
  void drop_gradient() {
    if constexpr (Value::SizeAtCompileTime == Dynamic) {
      grad = Value();
    } else {
      grad.setZero();
    }
  }

 private:
  void clear_fixed_gradient() {
    if constexpr (Rows != Dynamic && Cols != Dynamic) grad.setZero();
  }
};

/// A row-major parameter, such as A (rank, in).
template <class S, int Rows = Dynamic, int Cols = Dynamic>
using RowMajorParameter = Parameter<S, Rows, Cols, RowMajorMatrix<S, Rows, Cols>>;

namespace detail {

/// The elements of a parameter's value or gradient as a flat vector in storage order: faster than a strided view.
template <class M>
auto flat(M& matrix) {
  using Scalar = std::remove_pointer_t<decltype(matrix.data())>;
  using Plain = Vector<std::remove_const_t<Scalar>>;
  return Eigen::Map<std::conditional_t<std::is_const_v<Scalar>, const Plain, Plain>>(matrix.data(), matrix.size());
}

void fill_with_zeros(auto& matrix) {
  using S = std::remove_pointer_t<decltype(matrix.data())>;
  std::fill_n(matrix.data(), matrix.size(), S(0));
}

}  // namespace detail

template <class T>
concept ParameterLike = requires(T& p) {
  p.value.size();
  p.grad.size();
  { p.trainable } -> std::convertible_to<bool>;
};

static_assert(ParameterLike<Parameter<float>> && ParameterLike<const RowMajorParameter<double, 2, 3>>);

}  // namespace lora::inline LORA_ABI
