#pragma once
/// Sums and products of columns, element by element:   y = a x,   y += a x,   y = x .* z,   y += x .* z
///
/// On pointers, so that the compiler meets each of them once for a scalar. An Eigen expression is a type of its own for
/// every combination of matrices, maps and blocks, and brings 30 to 100 functions to every program.

#include "lora/kernels/columns.hpp"
#include "lora/kernels/elementwise.hpp"

#include <algorithm>
#include <array>

namespace lora::inline LORA_ABI::detail {

template <class S>
struct TimesFactor {
  S factor;
  template <class V>
  typename V::Packet packet(const typename V::Packet& x) const {
    return V::multiply(V::constant(factor), x);
  }
};
template <class S>
struct PlusMultiple {
  S factor;
  template <class V>
  typename V::Packet packet(const typename V::Packet& y, const typename V::Packet& x) const {
    return V::multiply_add(V::constant(factor), x, y);
  }
};
template <class S>
struct PlusFourMultiples {
  std::array<S, 4> factors;
  template <class V, class Packet = typename V::Packet>
  Packet packet(const Packet& y, const Packet& x0, const Packet& x1, const Packet& x2, const Packet& x3) const {
    const Packet first = V::multiply_add(V::constant(factors[1]), x1, V::multiply(V::constant(factors[0]), x0));
    const Packet last = V::multiply_add(V::constant(factors[3]), x3, V::multiply(V::constant(factors[2]), x2));
    return V::add(y, V::add(first, last));
  }
  template <class V, class Packet = typename V::Packet>
  Packet packet(const Packet& y, const Packet& sum, const Packet& x0, const Packet& x1, const Packet& x2,
                const Packet& x3) const {
    return V::add(y, packet<V>(sum, x0, x1, x2, x3));
  }
};
template <class S>
struct DifferenceTimes {
  S factor;
  template <class V>
  typename V::Packet packet(const typename V::Packet& x, const typename V::Packet& z) const {
    return V::multiply(V::constant(factor), V::subtract(x, z));
  }
};
struct TimesEach {
  template <class V>
  typename V::Packet packet(const typename V::Packet& x, const typename V::Packet& z) const {
    return V::multiply(x, z);
  }
};
struct PlusEachProduct {
  template <class V>
  typename V::Packet packet(const typename V::Packet& y, const typename V::Packet& x,
                            const typename V::Packet& z) const {
    return V::multiply_add(x, z, y);
  }
};

/// y = factor x;   y may be x
template <class S>
void multiply_by(S factor, const S* x, Index count, S* y) {
  map_elements<Simd<S>>(TimesFactor<S>{factor}, count, y, x);
}

/// y += factor x
template <class S>
void add_multiple(S factor, const S* x, Index count, S* y) {
  map_elements<Simd<S>>(PlusMultiple<S>{factor}, count, y, static_cast<const S*>(y), x);
}

/// y += the sum of four columns of X, `stride` apart, each times its factor; with `sum`, y += sum + that.
template <class S, class... Sum>
void add_four_multiples(const std::array<S, 4>& factors, const S* X, Index stride, Index count, S* y, Sum... sum) {
  map_elements<Simd<S>>(PlusFourMultiples<S>{factors}, count, y, static_cast<const S*>(y), sum..., X, X + stride,
                        X + 2 * stride, X + 3 * stride);
}

/// y = factor (x - z);   y may be one of them
template <class S>
void multiple_of_difference(S factor, const S* x, const S* z, Index count, S* y) {
  map_elements<Simd<S>>(DifferenceTimes<S>{factor}, count, y, x, z);
}

/// y = x .* z;   y may be one of them
template <class S>
void multiply_each(const S* x, const S* z, Index count, S* y) {
  map_elements<Simd<S>>(TimesEach(), count, y, x, z);
}

/// y += x .* z
template <class S>
void add_each_product(const S* x, const S* z, Index count, S* y) {
  map_elements<Simd<S>>(PlusEachProduct(), count, y, static_cast<const S*>(y), x, z);
}

/// Y = X, column by column
template <class S>
void copy_columns(const Columns<S>& X, MutableColumns<S> Y) {
  for (Index j = 0; j < X.cols(); ++j) std::copy_n(X.data() + j * X.outerStride(), X.rows(), &Y(0, j));
}

/// Y += factor X, column by column
template <class S>
void add_columns(S factor, const Columns<S>& X, MutableColumns<S> Y) {
  for (Index j = 0; j < X.cols(); ++j) add_multiple(factor, X.data() + j * X.outerStride(), X.rows(), &Y(0, j));
}

/// Every column of Y += b
template <class S>
void add_to_columns(const S* b, MutableColumns<S> Y) {
  for (Index j = 0; j < Y.cols(); ++j) add_multiple(S(1), b, Y.rows(), &Y(0, j));
}

/// sum += factor times the sum of the columns of X, which is formed first: a few rows at a time, so that it stays in L1
/// and X is read in the order of memory.
template <class S>
void add_sum_of_columns(S factor, const Columns<S>& X, Vector<S>& sum) {
  constexpr Index most = 512;
  alignas(64) S part[most];
  for (Index row = 0; row < X.rows(); row += most) {
    const Index rows = std::min(most, X.rows() - row);
    std::fill_n(part, rows, S(0));
    for (Index j = 0; j < X.cols(); ++j) add_multiple(S(1), X.data() + row + j * X.outerStride(), rows, part);
    add_multiple(factor, part, rows, sum.data() + row);
  }
}

}  // namespace lora::inline LORA_ABI::detail
