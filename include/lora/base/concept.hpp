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
/// free functions below pick them up, so speed arrives through the base and adapters contain no branches for it. The
/// same holds for the products of the factors themselves: thin_product(T, X, Z) and add_outer(X, G, D), as below.
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

/// Z = T X, by the kernels of the base where it has some.   T (rank, long), X (long, samples).
void thin_product(const auto& base, const auto& T, const auto& X, auto&& Z) {
  if constexpr (requires { base.thin_product(T, X, Z); }) {
    base.thin_product(T, X, Z);
  } else {
    Z.noalias() = T * X;
  }
}

/// D += X G^T, the gradient of a factor, likewise.   X (rows, samples), G (cols, samples), D (rows, cols).
void add_outer(const auto& base, const auto& X, const auto& G, auto&& D) {
  if constexpr (requires { base.add_outer(X, G, D); }) {
    base.add_outer(X, G, D);
  } else {
    D.noalias() += X * G.transpose();
  }
}

/// In place of a base, where an adapter adds to what is there already: Eigen's products.
struct NoBase {};

}  // namespace lora
