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
/// same holds for forming W0 + s U V; for the products of the factors, thin_product(T, X, Z) and add_outer(X, G, D);
/// for columns(first, count) of W0; and for a static multiply(W, x, y) of a matrix that is not frozen.
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

/// Room for W0 + s U V, which a base may form in a forward pass and use in the backward pass that belongs to it.
template <class S>
struct MergedWeight {
  Vector<S> numbers;    ///< in the base's own order; empty until a base forms it
  bool formed = false;  ///< in the last forward pass

  Index bytes() const { return numbers.size() * static_cast<Index>(sizeof(S)); }
};

/// The same where Z = s V x: a base may form W0 + s U V instead and multiply by that.   V (rank, in)
template <class S>
void apply(const FrozenBase auto& base, const auto& x, auto& y, const auto& U, const auto& Z, const auto& V, S s,
           MergedWeight<S>& merged) {
  if constexpr (requires { base.apply(x, y, U, Z, V, s, merged); }) {
    base.apply(x, y, U, Z, V, s, merged);
  } else {
    lora::apply(base, x, y, U, Z);
  }
}

/// The way back of that pass: dx = W0^T dy + U Z, or by what the forward pass formed.   U (in, rank), Z (rank, samples)
template <class S>
void apply_transposed(const FrozenBase auto& base, const auto& dy, auto& dx, const auto& U, const auto& Z,
                      const MergedWeight<S>& merged) {
  if constexpr (requires { base.apply_transposed(dy, dx, U, Z, merged); }) {
    base.apply_transposed(dy, dx, U, Z, merged);
  } else {
    lora::apply_transposed(base, dy, dx, U, Z);
  }
}

/// y = W x with a matrix of one's own, as Base multiplies by W0: if W is W0, y is that of apply to the bit.
template <FrozenBase Base>
void multiply_like(const auto& W, const auto& x, auto& y) {
  if constexpr (requires { Base::multiply(W, x, y); }) {
    Base::multiply(W, x, y);
  } else {
    y.noalias() = W * x;
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

/// W0[:, first : first + count] as a new matrix, without the rest of W0 where the base can.
template <FrozenBase Base>
Matrix<typename Base::Scalar, Base::Out> columns(const Base& base, Index first, Index count) {
  if constexpr (requires { base.columns(first, count); }) {
    return base.columns(first, count);
  } else {
    return base.dense().middleCols(first, count);
  }
}

/// In place of a base, where an adapter adds to what is there already: Eigen's products.
struct NoBase {};

}  // namespace lora
