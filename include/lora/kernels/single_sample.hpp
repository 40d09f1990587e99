#pragma once
/// y = W0 x + U z of one sample, which reads every element of W0 once, for one multiply-add.
///
///   rows of several panels, one below the other:   a tile of y, as many rows as registers hold twice
///     columns 0, 2, 4, ... add to one half         a multiply-add waits for the one before it on the same register, so
///     columns 1, 3, 5, ... to the other            each sum has two; they are added at the end of a block of columns
///
/// Every row has its own sums, so how many panels are in a tile changes no bit of the result, and a weight that is not
/// packed is added up in the same order.

#include "lora/kernels/panel_layout.hpp"

#include <algorithm>
#include <array>

namespace lora::inline LORA_ABI::detail {

/// The sum over `steps` of vectors times scalars, for the rows of some panels.
template <class S>
struct SampleSum {
  const S* vectors = nullptr;  ///< the first panel
  Index panel = 0;             ///< from one panel to the next
  Index step = 0;              ///< from one column of a panel to the next
  const S* scalars = nullptr;  ///< one for each column
  Index steps = 0;
};

/// `Panels` panels of `Packets` packets.
template <class S, int Panels, int Packets>
class SampleTile {
  using Simd = detail::Simd<S>;
  using Packet = typename Simd::Packet;
  static constexpr int count = Panels * Packets;
  static constexpr Index height = Index(count) * Simd::lanes;
  using Sums = Packet[count];

 public:
  /// y = or += the sums, for the first `rows` rows.
  static void run(const SampleSum<S>* sums, int terms, S* y, Index rows, bool add) {
    Sums c;
    clear(c, counted<count>);
    for (int k = 0; k < terms; ++k) accumulate(c, sums[k]);
    if (rows == height) return add ? store_added(c, y, counted<count>) : store(c, y, counted<count>);
    alignas(64) S tile[height];
    store(c, tile, counted<count>);
    for (Index row = 0; row < rows; ++row) y[row] = add ? y[row] + tile[row] : tile[row];
  }

 private:
  EIGEN_ALWAYS_INLINE static void accumulate(Sums& c, const SampleSum<S>& sum) {
    Sums other;
    clear(other, counted<count>);
    const S *vectors = sum.vectors, *scalar = sum.scalars;
    Index left = sum.steps;
    for (; left >= 2; left -= 2, vectors += 2 * sum.step, scalar += 2) {
      step(other, vectors, sum.panel, scalar, counted<count>);
      step(c, vectors + sum.step, sum.panel, scalar + 1, counted<count>);
    }
    add(c, other, counted<count>);
    if (left > 0) step(c, vectors, sum.panel, scalar, counted<count>);
  }

  template <int... K>
  EIGEN_ALWAYS_INLINE static void step(Sums& c, const S* vectors, Index panel, const S* scalar,
                                       std::integer_sequence<int, K...>) {
    const Packet spread = Simd::template broadcast<1>(scalar);
    ((c[K] = Simd::multiply_add(Simd::load(vectors + K / Packets * panel + K % Packets * Simd::lanes), spread, c[K])),
     ...);
  }
  template <int... K>
  EIGEN_ALWAYS_INLINE static void clear(Sums& c, std::integer_sequence<int, K...>) {
    ((c[K] = Simd::zero()), ...);
  }
  template <int... K>
  EIGEN_ALWAYS_INLINE static void add(Sums& c, const Sums& other, std::integer_sequence<int, K...>) {
    ((c[K] = Simd::add(c[K], other[K])), ...);
  }
  template <int... K>
  EIGEN_ALWAYS_INLINE static void store(const Sums& c, S* to, std::integer_sequence<int, K...>) {
    (Simd::store(to + K * Simd::lanes, c[K]), ...);
  }
  template <int... K>
  EIGEN_ALWAYS_INLINE static void store_added(const Sums& c, S* to, std::integer_sequence<int, K...>) {
    (Simd::store(to + K * Simd::lanes, Simd::add(Simd::load(to + K * Simd::lanes), c[K])), ...);
  }
};

/// y = or += the sums for `rows` rows: whole panels, as many as possible at a time, then the last, lower one.
template <class S, int Panels = Blocking<S>::sample_panels>
void sample_rows(SampleSum<S>* sums, int terms, S* y, Index rows, bool add) {
  constexpr Index height = Panels * Blocking<S>::mr;
  for (; rows >= height; rows -= height, y += height) {
    SampleTile<S, Panels, Blocking<S>::mr_packets>::run(sums, terms, y, height, add);
    for (int k = 0; k < terms; ++k) sums[k].vectors += Panels * sums[k].panel;
  }
  if constexpr (Panels > 1) {
    sample_rows<S, Panels / 2>(sums, terms, y, rows, add);
  } else if (rows > 0) {
    using Run = void (*)(const SampleSum<S>*, int, S*, Index, bool);
    static constexpr auto table = []<int... K>(std::integer_sequence<int, K...>) {
      return std::array<Run, sizeof...(K)>{&SampleTile<S, 1, K + 1>::run...};
    }(counted<Blocking<S>::mr_packets>);
    table[static_cast<std::size_t>((rows - 1) / Simd<S>::lanes)](sums, terms, y, rows, add);
  }
}

}  // namespace lora::inline LORA_ABI::detail
