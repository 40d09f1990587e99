#pragma once
/// A function of every element, in packets:   y = f(x),   y = f(x, x', ...)
///
/// Of floats and doubles every element goes through the same packet code: what is left at the end of a column is padded
/// to a packet. So an element's bits depend on its value alone, not on where it stands, how memory is aligned or how a
/// batch is split. Other scalars, such as dual numbers, take the scalar form.

#include "lora/kernels/packet.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace lora::inline LORA_ABI::detail {

template <class S>
inline constexpr bool has_packets = std::is_same_v<S, float> || std::is_same_v<S, double>;

/// Copies fewer elements than Lanes: in pieces of fixed sizes, which is faster than a loop or a call.
template <int Lanes, class S>
EIGEN_ALWAYS_INLINE void copy_few(const S* from, Index count, S* to) {
  if constexpr (Lanes > 1) {
    constexpr int half = Lanes / 2;
    if ((count & half) != 0) {
      std::memcpy(to, from, half * sizeof(S));
      from += half;
      to += half;
    }
    copy_few<half>(from, count, to);
  }
}

/// f.packet<V>(packets...) for the elements 0, ..., lanes - 1, lanes, ... of whole packets. `to` may be one of `from`.
template <class V, class... From>
void map_packets(auto f, Index count, typename V::Scalar* to, const From*... from) {
  for (Index i = 0; i < count; i += V::lanes) V::store(to + i, f.template packet<V>(V::load(from + i)...));
}

/// The same for any count.
template <class V, class... From>
void map_elements(auto f, Index count, typename V::Scalar* to, const From*... from) {
  using S = typename V::Scalar;
  const Index whole = count - count % V::lanes, rest = count - whole;
  if (whole > 0) map_packets<V>(f, whole, to, from...);
  if (rest == 0) return;
  const auto padded = [&](const S* some) {
    std::array<S, std::size_t(V::lanes)> packet{};
    copy_few<V::lanes>(some + whole, rest, packet.data());
    return packet;
  };
  std::array<S, std::size_t(V::lanes)> last;
  map_packets<V>(f, V::lanes, last.data(), padded(from).data()...);
  copy_few<V::lanes>(last.data(), rest, to + whole);
}

/// f.packet<V>(x, packets) changes the packets of one place of several arrays, for any number of elements.
template <class V, std::size_t Arrays>
void update_elements(auto f, Index count, const typename V::Scalar* x,
                     const std::array<typename V::Scalar*, Arrays>& changed) {
  using S = typename V::Scalar;
  const auto update = [&](const S* from, const std::array<S*, Arrays>& some, Index i) {
    typename V::Packet packets[Arrays];
    for (std::size_t k = 0; k < Arrays; ++k) packets[k] = V::load(some[k] + i);
    f.template packet<V>(V::load(from + i), packets);
    for (std::size_t k = 0; k < Arrays; ++k) V::store(some[k] + i, packets[k]);
  };
  Index i = 0;
  for (; i + V::lanes <= count; i += V::lanes) update(x, changed, i);
  if (i == count) return;
  S last[V::lanes] = {}, copies[Arrays][V::lanes] = {};
  std::array<S*, Arrays> padded;
  copy_few<V::lanes>(x + i, count - i, last);
  for (std::size_t k = 0; k < Arrays; ++k) {
    padded[k] = copies[k];
    copy_few<V::lanes>(changed[k] + i, count - i, padded[k]);
  }
  update(last, padded, 0);
  for (std::size_t k = 0; k < Arrays; ++k) copy_few<V::lanes>(padded[k], count - i, changed[k] + i);
}

/// Whether elements next to each other in a column, or in a row if RowMajor, are so in memory.
template <class Derived, bool RowMajor>
constexpr bool in_lines() {
  using Plain = std::remove_cvref_t<Derived>;
  if constexpr ((Plain::Flags & Eigen::DirectAccessBit) != 0) {
    return Plain::InnerStrideAtCompileTime == 1 && bool(Plain::IsRowMajor) == RowMajor;
  } else {
    return false;
  }
}

/// y = F of each element of x..., which are of one shape. F has two forms, scalar(x...) and packet<V>(x...). y is
/// resized if it is a matrix; it may be the memory of an x, and must not overlap one in another way.
template <class F, class X, class... More>
void map_matrix(auto&& y, const X& x, const More&... more) {
  using Y = std::remove_cvref_t<decltype(y)>;
  using S = typename X::Scalar;
  y.resize(x.rows(), x.cols());
  if constexpr (!has_packets<S>) {
    for (Index j = 0; j < x.cols(); ++j) {
      for (Index i = 0; i < x.rows(); ++i) y.coeffRef(i, j) = F::scalar(x.coeff(i, j), more.coeff(i, j)...);
    }
  } else if constexpr (in_lines<Y, Y::IsRowMajor>() && in_lines<X, Y::IsRowMajor>() &&
                       (in_lines<More, Y::IsRowMajor>() && ...)) {
    const Index length = y.innerSize(), lines = y.outerSize();
    const auto dense = [&](const auto& some) { return some.outerStride() == length; };
    if (lines == 1 || (dense(y) && dense(x) && (dense(more) && ...))) {
      return map_elements<Simd<S>>(F(), length * lines, y.data(), x.data(), more.data()...);
    }
    for (Index j = 0; j < lines; ++j) {
      map_elements<Simd<S>>(F(), length, y.data() + j * y.outerStride(), x.data() + j * x.outerStride(),
                            (more.data() + j * more.outerStride())...);
    }
  } else {
    constexpr Index lanes = Simd<S>::lanes;
    using Packet = Eigen::Array<S, lanes, 1>;
    for (Index j = 0; j < x.cols(); ++j) {
      for (Index i = 0; i < x.rows(); i += lanes) {
        const Index count = std::min(lanes, x.rows() - i);
        const auto gathered = [&](const auto& some) {
          Packet packet = Packet::Zero();
          for (Index k = 0; k < count; ++k) packet(k) = some.coeff(i + k, j);
          return packet;
        };
        Packet result;
        map_packets<Simd<S>>(F(), lanes, result.data(), gathered(x).data(), gathered(more).data()...);
        for (Index k = 0; k < count; ++k) y.coeffRef(i + k, j) = result(k);
      }
    }
  }
}

}  // namespace lora::inline LORA_ABI::detail
