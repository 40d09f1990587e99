#pragma once
/// What a frozen weight W0 (out, in) must offer, and the one place that fuses the adapter's term into its product.

#include "lora/core/scalar.hpp"

namespace lora {

/// apply:            y  = W0 x      x  (in, samples),  y  (out, samples)
/// apply_transposed: dx = W0^T dy   dy (out, samples), dx (in, samples)
/// y and dx have their sizes already and must not overlap the input. Both are const and safe to call from many threads.
///
/// Out, In: compile-time sizes or Dynamic. dense() gives W0 itself. bytes() is the memory that W0 takes.
///
/// A base that can do better adds apply(x, y, U, Z) for y = W0 x + U Z and apply_transposed(dy, dx, U, Z) likewise; the
/// free functions below pick them up, so speed arrives through the base and adapters contain no branches for it.
template <class B>
concept FrozenBase =
    requires(const B& base, const Matrix<typename B::Scalar, B::In, Dynamic>& x,
             const Matrix<typename B::Scalar, B::Out, Dynamic>& dy, Matrix<typename B::Scalar, B::Out, Dynamic>& y,
             Matrix<typename B::Scalar, B::In, Dynamic>& dx) {
      requires Scalar<typename B::Scalar>;
      { base.rows() } -> std::convertible_to<Index>;
      { base.cols() } -> std::convertible_to<Index>;
      { base.bytes() } -> std::convertible_to<Index>;
      { base.dense().rows() } -> std::convertible_to<Index>;
      base.apply(x, y);
      base.apply_transposed(dy, dx);
    };

/// y = W0 x + U Z, in one pass where the base can.   U (out, rank), Z (rank, samples).
void apply(const FrozenBase auto& base, const auto& x, auto& y, const auto& U, const auto& Z) {
  if constexpr (requires { base.apply(x, y, U, Z); }) {
    base.apply(x, y, U, Z);
  } else {
    base.apply(x, y);
    y.noalias() += U * Z;
  }
}

/// dx = W0^T dy + U Z, in one pass where the base can.   U (in, rank), Z (rank, samples).
void apply_transposed(const FrozenBase auto& base, const auto& dy, auto& dx, const auto& U, const auto& Z) {
  if constexpr (requires { base.apply_transposed(dy, dx, U, Z); }) {
    base.apply_transposed(dy, dx, U, Z);
  } else {
    base.apply_transposed(dy, dx);
    dx.noalias() += U * Z;
  }
}

}  // namespace lora
