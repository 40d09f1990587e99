#pragma once
/// The two sums over a column that softmax needs: of exponentials, and of products.
///
/// Of floats and doubles, lane k of a cache line sums the elements k, k + lanes, ..., and then the lanes are added
/// pairwise, for packets of any size. So the bits depend on the column's values, not on the memory they lie in.

#include "lora/kernels/elementwise.hpp"
#include "lora/kernels/packet_math.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

namespace lora::inline LORA_ABI::detail {

/// Sums of as many lanes as a cache line has elements.
template <class V>
struct LineSums {
  using S = typename V::Scalar;
  using Packet = typename V::Packet;
  static constexpr int packets = static_cast<int>(V::line) / V::lanes;
  using Line = std::array<S, static_cast<std::size_t>(V::line)>;

  Packet sums[packets];

  EIGEN_ALWAYS_INLINE LineSums() {
    for (Packet& sum : sums) sum = V::zero();
  }
  /// Writes exp(x_i - largest) of a line and adds it.
  EIGEN_ALWAYS_INLINE void add_exponentials(const S* x, const Packet& largest, S* to) {
    for (int p = 0; p < packets; ++p) {
      const Packet e = PacketMath<V>::exp(V::subtract(V::load(x + p * V::lanes), largest));
      V::store(to + p * V::lanes, e);
      sums[p] = V::add(sums[p], e);
    }
  }
  EIGEN_ALWAYS_INLINE void add_products(const S* a, const S* b) {
    for (int p = 0; p < packets; ++p)
      sums[p] = V::multiply_add(V::load(a + p * V::lanes), V::load(b + p * V::lanes), sums[p]);
  }
  S total() const {
    Line lanes;
    for (int p = 0; p < packets; ++p) V::store(lanes.data() + p * V::lanes, sums[p]);
    for (std::size_t half = lanes.size() / 2; half > 0; half /= 2) {
      for (std::size_t k = 0; k < half; ++k) lanes[k] += lanes[k + half];
    }
    return lanes[0];
  }
};

/// Whether a column's elements lie next to each other.
template <class Column>
constexpr bool is_contiguous() {
  return in_lines<Column, bool(std::remove_cvref_t<Column>::IsRowMajor)>();
}

/// The line of a column that begins with element `first`: where it lies, or a copy that is filled up with `rest`.
template <class V>
const typename V::Scalar* line_at(const auto& column, Index first, typename LineSums<V>::Line& copy,
                                  typename V::Scalar rest) {
  const Index count = std::min(V::line, column.size() - first);
  if constexpr (is_contiguous<decltype(column)>()) {
    if (count == V::line) return column.data() + first;
  }
  copy.fill(rest);
  for (Index k = 0; k < count; ++k) copy[static_cast<std::size_t>(k)] = column.coeff(first + k);
  return copy.data();
}

/// Returns the sum of exp(x_i - largest), largest at least every x_i, and writes these numbers to *y unless y is null;
/// *y may be the memory of x.
template <class X, class Y, class V = Simd<typename X::Scalar>>
typename X::Scalar exponentials(const X& x, const typename X::Scalar& largest, Y* y) {
  using S = typename X::Scalar;
  if constexpr (!has_packets<S>) {
    using std::exp;
    S sum(0);
    for (Index i = 0; i < x.size(); ++i) {
      const S e = exp(x.coeff(i) - largest);
      if (y != nullptr) y->coeffRef(i) = e;
      sum = sum + e;
    }
    return sum;
  } else {
    LineSums<V> sums;
    typename LineSums<V>::Line copy, result;
    const auto shift = V::constant(largest);
    for (Index first = 0; first < x.size(); first += V::line) {
      const S* const from = line_at<V>(x, first, copy, -std::numeric_limits<S>::infinity());
      const Index count = std::min(V::line, x.size() - first);
      if constexpr (is_contiguous<Y>()) {
        if (y != nullptr && count == V::line) {
          sums.add_exponentials(from, shift, y->data() + first);
          continue;
        }
      }
      sums.add_exponentials(from, shift, result.data());
      if (y == nullptr) continue;
      for (Index k = 0; k < count; ++k) y->coeffRef(first + k) = result[static_cast<std::size_t>(k)];
    }
    return sums.total();
  }
}

/// The sum of a_i b_i.
template <class A, class B, class V = Simd<typename A::Scalar>>
typename A::Scalar sum_of_products(const A& a, const B& b) {
  using S = typename A::Scalar;
  if constexpr (!has_packets<S>) {
    S sum(0);
    for (Index i = 0; i < a.size(); ++i) sum = sum + a.coeff(i) * b.coeff(i);
    return sum;
  } else {
    LineSums<V> sums;
    typename LineSums<V>::Line copy_a, copy_b;
    for (Index first = 0; first < a.size(); first += V::line)
      sums.add_products(line_at<V>(a, first, copy_a, S(0)), line_at<V>(b, first, copy_b, S(0)));
    return sums.total();
  }
}

}  // namespace lora::inline LORA_ABI::detail
