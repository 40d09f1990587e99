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

/// The sum of the lanes, each half added to the other until one is left.
template <class V>
typename V::Scalar folded(const typename V::Packet& sums) {
  using S = typename V::Scalar;
  using Half = typename V::Narrower;
  std::array<S, static_cast<std::size_t>(V::lanes)> lanes;
  V::store(lanes.data(), sums);
  if constexpr (Half::lanes < V::lanes) {
    return folded<Half>(Half::add(Half::load(lanes.data()), Half::load(lanes.data() + Half::lanes)));
  } else {
    for (std::size_t half = lanes.size() / 2; half > 0; half /= 2) {
      for (std::size_t k = 0; k < half; ++k) lanes[k] += lanes[k + half];
    }
    return lanes[0];
  }
}

/// Sums of as many lanes as a cache line has elements.
template <class V>
struct LineSums {
  using Packet = typename V::Packet;
  static constexpr int packets = static_cast<int>(V::line) / V::lanes;

  Packet sums[packets];

  EIGEN_ALWAYS_INLINE LineSums() {
    for (Packet& sum : sums) sum = V::zero();
  }
  typename V::Scalar total() {
    for (int half = packets / 2; half > 0; half /= 2) {
      for (int p = 0; p < half; ++p) sums[p] = V::add(sums[p], sums[p + half]);
    }
    return folded<V>(sums[0]);
  }
};

/// Whether a column's elements lie next to each other.
template <class Column>
constexpr bool is_contiguous() {
  return in_lines<Column, bool(std::remove_cvref_t<Column>::IsRowMajor)>();
}

/// The elements i, i + 1, ... of a column, and `rest` beyond its end, which is further away if Whole.
template <class V, bool Whole>
EIGEN_ALWAYS_INLINE typename V::Packet packet_at(const auto& column, Index i, typename V::Scalar rest) {
  const Index count = std::min<Index>(V::lanes, column.size() - i);
  if constexpr (is_contiguous<decltype(column)>()) {
    if (Whole || count == V::lanes) return V::load(column.data() + i);
  }
  std::array<typename V::Scalar, static_cast<std::size_t>(V::lanes)> copy;
  copy.fill(rest);
  if constexpr (is_contiguous<decltype(column)>()) {
    copy_few<V::lanes>(column.data() + i, count, copy.data());
  } else {
    for (Index k = 0; k < count; ++k) copy[static_cast<std::size_t>(k)] = column.coeff(i + k);
  }
  return V::load(copy.data());
}

/// Writes them, as far as the column goes.
template <class V, bool Whole>
EIGEN_ALWAYS_INLINE void put_packet(auto& column, Index i, const typename V::Packet& packet) {
  const Index count = std::min<Index>(V::lanes, column.size() - i);
  if constexpr (is_contiguous<decltype(column)>()) {
    if (Whole || count == V::lanes) return V::store(column.data() + i, packet);
  }
  std::array<typename V::Scalar, static_cast<std::size_t>(V::lanes)> copy;
  V::store(copy.data(), packet);
  if constexpr (is_contiguous<decltype(column)>()) {
    copy_few<V::lanes>(copy.data(), count, column.data() + i);
  } else {
    for (Index k = 0; k < count; ++k) column.coeffRef(i + k) = copy[static_cast<std::size_t>(k)];
  }
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
    LineSums<V> line;
    const auto shift = V::constant(largest);
    const auto add = [&](auto whole, auto& sum, Index i) {
      constexpr S none = -std::numeric_limits<S>::infinity();
      const auto e = PacketMath<V>::exp(V::subtract(packet_at<V, whole>(x, i, none), shift));
      if (y != nullptr) put_packet<V, whole>(*y, i, e);
      sum = V::add(sum, e);
    };
    Index first = 0;
    for (; first + V::line <= x.size(); first += V::line) {
      for (int p = 0; p < line.packets; ++p) add(std::true_type(), line.sums[p], first + p * V::lanes);
    }
    for (int p = 0; first + p * V::lanes < x.size(); ++p) add(std::false_type(), line.sums[p], first + p * V::lanes);
    return line.total();
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
    LineSums<V> line;
    const auto add = [&](auto whole, auto& sum, Index i) {
      sum = V::multiply_add(packet_at<V, whole>(a, i, S(0)), packet_at<V, whole>(b, i, S(0)), sum);
    };
    Index first = 0;
    for (; first + V::line <= a.size(); first += V::line) {
      for (int p = 0; p < line.packets; ++p) add(std::true_type(), line.sums[p], first + p * V::lanes);
    }
    for (int p = 0; first + p * V::lanes < a.size(); ++p) add(std::false_type(), line.sums[p], first + p * V::lanes);
    return line.total();
  }
}

}  // namespace lora::inline LORA_ABI::detail
