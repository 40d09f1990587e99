#pragma once
/// A tensor that may be trained, with its gradient beside it.

#include "lora/core/scalar.hpp"

#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI {

/// value: the numbers. grad: dL/dvalue, of the same shape, or empty while no backward pass has reached it.
/// trainable: backward passes skip the gradient of a parameter that is not, and optimizers leave it alone.
template <class S, int Rows = Dynamic, int Cols = Dynamic, class Value = Matrix<S, Rows, Cols>>
struct Parameter {
  static_assert(detail::require_storable<S, Rows, Cols>());
  using Scalar = S;

  Value value;
  Value grad;
  bool trainable = true;

  Parameter() { clear_fixed_gradient(); }
  explicit Parameter(Value initial) : value(std::move(initial)) { clear_fixed_gradient(); }

  /// The gradient to add to; it appears as zeros at the first call. Backward passes always add (+=), because a
  /// parameter that is used twice has the sum of two gradients; zero_gradients(model) starts anew.
  Value& gradient() {
    if (grad.size() != value.size()) grad.setZero(value.rows(), value.cols());
    return grad;
  }

  /// Gives back the memory of the gradient; with compile-time sizes, which have none to give back, it becomes zero.
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

/// A parameter stored row by row, as A (rank, in) is.
template <class S, int Rows = Dynamic, int Cols = Dynamic>
using RowMajorParameter = Parameter<S, Rows, Cols, RowMajorMatrix<S, Rows, Cols>>;

namespace detail {

/// The elements of a parameter's value or gradient as they lie in memory, in whatever order: faster than a view with
/// strides.
template <class M>
auto flat(M& matrix) {
  using Scalar = std::remove_pointer_t<decltype(matrix.data())>;
  using Plain = Vector<std::remove_const_t<Scalar>>;
  return Eigen::Map<std::conditional_t<std::is_const_v<Scalar>, const Plain, Plain>>(matrix.data(), matrix.size());
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
