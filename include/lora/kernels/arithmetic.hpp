#pragma once
/// Sums and products of columns, element by element:   y = a x,   y += a x,   y = x .* z,   y += x .* z
///
/// On pointers, so that the compiler meets each of them once for a scalar. An Eigen expression is a type of its own for
/// every combination of matrices, maps and blocks, and brings 30 to 100 functions to every program.

#include "lora/kernels/columns.hpp"
#include "lora/kernels/elementwise.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>

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
struct PlusMultipleOfDifference {
  S factor;
  template <class V, class Packet = typename V::Packet>
  Packet packet(const Packet& y, const Packet& x, const Packet& z) const {
    return V::multiply_add(V::constant(factor), V::subtract(x, z), y);
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

/// The sum of term(i) over i < count: as 16 sums, so that an addition need not wait for the one before.
template <class T>
T sum_of(Index count, const auto& term) {
  std::array<T, 16> sums{};
  constexpr auto lanes = static_cast<Index>(sums.size());
  Index first = 0;
  for (; first + lanes <= count; first += lanes) {
    for (std::size_t k = 0; k < sums.size(); ++k) sums[k] = sums[k] + term(first + static_cast<Index>(k));
  }
  for (std::size_t k = 0; first < count; ++first, ++k) sums[k] = sums[k] + term(first);
  return std::accumulate(sums.begin(), sums.end(), T(0));
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
void add_to_columns(const Vector<S>& b, MutableColumns<S> Y) {
  for (Index j = 0; j < Y.cols(); ++j) add_multiple(S(1), b.data(), b.size(), &Y(0, j));
}

/// Every column of Y += factor (b - c)
template <class S>
void add_difference_to_columns(S factor, const Vector<S>& b, const Vector<S>& c, MutableColumns<S> Y) {
  const PlusMultipleOfDifference<S> f{factor};
  for (Index j = 0; j < Y.cols(); ++j) {
    S* const y = &Y(0, j);
    map_elements<Simd<S>>(f, b.size(), y, static_cast<const S*>(y), b.data(), c.data());
  }
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
