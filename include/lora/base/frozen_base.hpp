#pragma once
/// The concept of a frozen weight W0 (out, in), and the functions that fuse the adapter's term into its product.

#include "lora/core/executor.hpp"
#include "lora/core/scalar.hpp"
#include "lora/kernels/thin_product.hpp"

namespace lora::inline LORA_ABI {

/// apply(x, y, executor):               y  = W0 x      x  (in, samples),  y  (out, samples)
/// apply_transposed(dy, dx, executor):  dx = W0^T dy   dy (out, samples), dx (in, samples)
/// columns(first, count):               W0[:, first : first + count] as a dense matrix
///
/// The caller sizes y and dx, which must not overlap the input. The executor may be null; it changes no bit of the
/// result. All are const and safe to call from many threads.
///
/// Out, In: compile-time sizes or Dynamic. bytes() is the memory that W0 takes.
///
/// A base may add fused forms, apply(x, y, U, Z, executor) for y = W0 x + U Z and apply_transposed(dy, dx, U, Z,
/// executor) for dx = W0^T dy + U Z, and a static multiply(W, x, y, executor) for a matrix that is not frozen. The free
/// functions below use them if they exist, so adapters contain no branches for them.
template <class B>
concept FrozenBase =
    requires(const B& base, const Matrix<typename B::Scalar, B::In, Dynamic>& x,
             const Matrix<typename B::Scalar, B::Out, Dynamic>& dy, Matrix<typename B::Scalar, B::Out, Dynamic>& y,
             Matrix<typename B::Scalar, B::In, Dynamic>& dx, Executor* executor) {
      requires Scalar<typename B::Scalar>;
      { base.rows() } -> std::convertible_to<Index>;
      { base.cols() } -> std::convertible_to<Index>;
      { base.bytes() } -> std::convertible_to<Index>;
      { base.columns(Index(), Index()) } -> std::convertible_to<Matrix<typename B::Scalar, B::Out, Dynamic>>;
      base.apply(x, y, executor);
      base.apply_transposed(dy, dx, executor);
    };

/// y = W0 x + U Z, in one pass if the base has a fused form.   U (out, rank), Z (rank, samples).
void apply(const FrozenBase auto& base, const auto& x, auto& y, const auto& U, const auto& Z,
           Executor* executor = nullptr) {
  if constexpr (requires { base.apply(x, y, U, Z, executor); }) {
    base.apply(x, y, U, Z, executor);
  } else {
    base.apply(x, y, executor);
    detail::add_low_rank(U, Z, y, executor);
  }
}

/// dx = W0^T dy + U Z, in one pass if the base has a fused form.   U (in, rank), Z (rank, samples).
void apply_transposed(const FrozenBase auto& base, const auto& dy, auto& dx, const auto& U, const auto& Z,
                      Executor* executor = nullptr) {
  if constexpr (requires { base.apply_transposed(dy, dx, U, Z, executor); }) {
    base.apply_transposed(dy, dx, U, Z, executor);
  } else {
    base.apply_transposed(dy, dx, executor);
    detail::add_low_rank(U, Z, dx, executor);
  }
}

/// W0 as a new matrix.
template <FrozenBase Base>
Matrix<typename Base::Scalar, Base::Out, Base::In> dense(const Base& base) {
  return base.columns(0, base.cols());
}

/// y = W x of a trained matrix, summed in the order of Base: for W = W0 the result of apply, bit for bit.
template <FrozenBase Base>
void multiply_like(const auto& W, const auto& x, auto& y, Executor* executor = nullptr) {
  if constexpr (requires { Base::multiply(W, x, y, executor); }) {
    Base::multiply(W, x, y, executor);
  } else {
    y.noalias() = W * x;
  }
}

}  // namespace lora::inline LORA_ABI
