#pragma once
/// What a frozen weight W0 (out, in) must offer, and the one place that fuses the adapter's term into its product.

#include "lora/core/executor.hpp"
#include "lora/core/scalar.hpp"
#include "lora/kernels/thin_product.hpp"

namespace lora::inline LORA_ABI {

/// apply(x, y, executor):               y  = W0 x      x  (in, samples),  y  (out, samples)
/// apply_transposed(dy, dx, executor):  dx = W0^T dy   dy (out, samples), dx (in, samples)
/// columns(first, count):               W0[:, first : first + count] as a dense matrix
///
/// y and dx have their sizes already and must not overlap the input. The executor is who may help, or null; it changes
/// no bit of the result. All are const and safe to call from many threads.
///
/// Out, In: compile-time sizes or Dynamic. bytes() is the memory that W0 takes.
///
/// A base that can do better adds apply(x, y, U, Z, executor) for y = W0 x + U Z and
/// apply_transposed(dy, dx, U, Z, executor) likewise; the free functions below pick them up, so speed arrives through
/// the base and adapters contain no branches for it. The same holds for a static multiply(W, x, y, executor) with a
/// matrix that is not frozen.
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

/// y = W0 x + U Z, in one pass where the base can.   U (out, rank), Z (rank, samples).
void apply(const FrozenBase auto& base, const auto& x, auto& y, const auto& U, const auto& Z,
           Executor* executor = nullptr) {
  if constexpr (requires { base.apply(x, y, U, Z, executor); }) {
    base.apply(x, y, U, Z, executor);
  } else {
    base.apply(x, y, executor);
    detail::add_low_rank(U, Z, y, executor);
  }
}

/// dx = W0^T dy + U Z, in one pass where the base can.   U (in, rank), Z (rank, samples).
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

/// y = W x of a trained matrix, summed in the order of Base: if W is W0, y is that of apply to the bit.
template <FrozenBase Base>
void multiply_like(const auto& W, const auto& x, auto& y, Executor* executor = nullptr) {
  if constexpr (requires { Base::multiply(W, x, y, executor); }) {
    Base::multiply(W, x, y, executor);
  } else {
    y.noalias() = W * x;
  }
}

}  // namespace lora::inline LORA_ABI
