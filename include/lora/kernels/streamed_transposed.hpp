#pragma once
/// dx = W0^T dy + V G for a few samples: W0 is streamed once, in memory order.
///
///   for a block of rows of dy       packed so that a packet holds a group of rows for each sample
///     for the columns of a block    their sums stay in L1 or L2
///       for each panel              its rows of dy stay in registers, as many as fit
///         for each column           sums += rows of dy times elements of W0; one load broadcasts a group of them
///     the lanes of each group are added and go to dx
///
/// With 8 lanes and groups of 2 rows (quad: four samples in a packet, each with a quarter of the lanes), a panel of MR
/// rows, its columns c, and the samples s, t, u, v:
///
///   rows_of_dy, packet g:    s(2g) s(2g+1) | t(2g) t(2g+1) | u(2g) u(2g+1) | v(2g) v(2g+1)     g = 0, ..., MR / 2 - 1
///   column c, group g:       w(2g) w(2g+1) | w(2g) w(2g+1) | w(2g) w(2g+1) | w(2g) w(2g+1)     one load, broadcast
///   sums, packet c:          + = the products, lane by lane, over all g and all panels
///   dx(c, s) += lanes 0 + 1,  dx(c, t) += lanes 2 + 3,  ...
///
///   panels, in memory:       column 0, MR elements | column 1 | ... | column KC - 1 | next panel of the block
///   rows_of_dy:              panel 0: groups x packets of samples | panel 1 | ...     the last padded with zeros
///   sums:                    column 0: packets of samples | column 1 | ...
///
/// With Group = lanes, a packet holds rows of a single sample, and each column is a dot product. The last panel may
/// have fewer rows: packets read beyond its columns, and the extra lanes are masked.
///
/// With few samples the product is memory-bound, so W0 has to be read sequentially. Splitting the columns at multiples
/// of MR changes no bit of the result.

#include "lora/kernels/pack_rows.hpp"
#include "lora/kernels/packed_product.hpp"

#include <algorithm>
#include <cstring>

namespace lora::inline LORA_ABI::detail {

/// dx += W0^T dy with `Vectors` packets for a group of `Group` rows of all samples.
template <class S, int Vectors, int Group>
class StreamedPass {
  using Layout = PanelLayout<S>;
  using Simd = detail::Simd<S>;
  using Packet = typename Simd::Packet;
  static constexpr int lanes = Simd::lanes;
  static constexpr int columns = Blocking<S>::transposed_columns;  ///< columns whose lanes are added together
  static constexpr int groups = int(Blocking<S>::mr) / Group;      ///< groups of rows in a panel
  static constexpr Index width = Index(Vectors) * lanes;
  /// Max panels processed together, with all their rows of dy in registers. For a dot product a column of one panel is
  /// a few multiply-adds, hardly more work than loading and storing its sums.
  static constexpr int max_panels = Group != lanes ? 1 : Blocking<S>::dot_panels;
  static constexpr Index max_rows = Blocking<S>::streamed_dy * Group / width / Blocking<S>::mr * Blocking<S>::mr;
  /// Off for dot products: the hardware prefetcher keeps up.
  static constexpr Index prefetch_distance = Group == lanes ? 0 : Blocking<S>::prefetch_distance;
  static_assert(Group <= 2 || (Blocking<S>::mr % columns == 0 && Blocking<S>::kc % columns == 0),
                "lanes are added in another order beside a cut than in the midst");

 public:
  static void run(const Layout& layout, const S* panels, const Columns<S>& dy, MutableColumns<S>& dx,
                  const Interval& cols) {
    alignas(64) S rows_of_dy[max_rows * width / Group];
    alignas(64) S sums[Blocking<S>::kc * width];
    for (Index first_row = 0; first_row < layout.rows; first_row += max_rows) {
      const Index rows = std::min(max_rows, layout.rows - first_row), full = rows / Blocking<S>::mr;
      pack_rows_of_dy(dy, first_row, rows, rows_of_dy);
      for (Index col = cols.first; col < cols.last;) {
        const Index block = col / Blocking<S>::kc * Blocking<S>::kc;
        const Index count = std::min(block + layout.block_cols(block), cols.last) - col;
        const Index panel = Blocking<S>::mr * layout.block_cols(block);
        const S* const begin = panels + layout.offset(first_row, block);
        std::fill_n(sums, count * width, S(0));
        add_full<max_panels>(begin + (col - block) * Blocking<S>::mr, panel, full, count, rows_of_dy, sums);
        if (const Index remainder = rows % Blocking<S>::mr; remainder > 0) {
          add_last(begin + full * panel + (col - block) * remainder, remainder, count,
                   rows_of_dy + full * groups * width, sums);
        }
        for (Index t = 0; t < count; t += columns) {
          store_transposed<S, columns, Group>(sums + t * width, width, &dx(col + t, 0), dx.outerStride(),
                                              std::min<Index>(columns, count - t), dy.cols(), true);
        }
        col += count;
      }
    }
  }

 private:
  /// Packs rows of dy as whole panels, zero beyond the end of dy.
  static void pack_rows_of_dy(const Columns<S>& dy, Index first_row, Index rows, S* to) {
    const Index remainder = rows % Group, grouped = rows - remainder;
    pack_rows(dy.data() + first_row, dy.outerStride(), grouped, dy.cols(), width / Group, Group, to);
    to += grouped / Group * width;
    std::fill_n(to, ((rows + Blocking<S>::mr - 1) / Blocking<S>::mr * groups - grouped / Group) * width, S(0));
    for (Index sample = 0; sample < dy.cols(); ++sample) {
      std::copy_n(dy.data() + first_row + grouped + sample * dy.outerStride(), remainder, to + sample * Group);
    }
  }

  /// A full panel: a group of a column as it was loaded.
  struct AllRows {
    EIGEN_ALWAYS_INLINE static Packet of(const Packet& loaded, int) { return loaded; }
  };
  /// The last panel: zero beyond the end of the column, where elements need not be finite.
  struct FirstRows {
    Packet mask[groups];
    EIGEN_ALWAYS_INLINE Packet of(const Packet& loaded, int group) const { return Simd::masked(loaded, mask[group]); }
  };

  /// sums += `full` panels, `apart` elements apart, times their rows of dy
  template <int Panels>
  static void add_full(const S* panels, Index apart, Index full, Index count, const S* dy, S* sums) {
    for (; full >= Panels; full -= Panels, panels += Panels * apart, dy += Index(Panels) * groups * width) {
      add_columns<Panels>(AllRows(), panels, apart, Blocking<S>::mr, count, dy, sums);
    }
    if constexpr (Panels > 1) add_full<Panels / 2>(panels, apart, full, count, dy, sums);
  }

  /// sums += the last panel, `rows` high, times its rows of dy
  static void add_last(const S* panel, Index rows, Index count, const S* dy, S* sums) {
    alignas(64) S ends[Blocking<S>::mr] = {};
    std::memset(ends, 0xFF, static_cast<std::size_t>(rows) * sizeof(S));
    FirstRows first;
    load_groups(first.mask, ends, counted<groups>);
    add_columns<1>(first, panel, 0, rows, count, dy, sums);
  }

  /// sums += `count` columns, which are `step` apart, of `Panels` panels
  template <int Panels>
  static void add_columns(const auto& those, const S* panels, Index apart, Index step, Index count, const S* dy,
                          S* sums) {
    constexpr int packets = Panels * groups * Vectors;
    Packet rows[packets];
    load(rows, dy, counted<packets>);
    for (; count > 0; --count, panels += step, sums += width) {
      Packet c[Vectors];
      load(c, sums, counted<Vectors>);
      if constexpr (prefetch_distance > 0)
        prefetch(panels + prefetch_distance, counted<int((Blocking<S>::mr + Simd::line - 1) / Simd::line)>);
      multiply(those, c, rows, panels, apart, counted<packets>);
      store(c, sums, counted<Vectors>);
    }
  }

  template <int... K>
  EIGEN_ALWAYS_INLINE static void prefetch(const S* column, std::integer_sequence<int, K...>) {
    (Simd::template prefetch<2>(column + K * Simd::line), ...);
  }
  template <int N, int... K>
  EIGEN_ALWAYS_INLINE static void load(Packet (&to)[N], const S* from, std::integer_sequence<int, K...>) {
    ((to[K] = Simd::load(from + K * lanes)), ...);
  }
  template <int... K>
  EIGEN_ALWAYS_INLINE static void store(const Packet (&c)[Vectors], S* to, std::integer_sequence<int, K...>) {
    (Simd::store(to + K * lanes, c[K]), ...);
  }
  template <int... K>
  EIGEN_ALWAYS_INLINE static void load_groups(Packet (&to)[groups], const S* from, std::integer_sequence<int, K...>) {
    ((to[K] = Simd::template broadcast<Group>(from + K * Group)), ...);
  }
  /// rows: ordered by panel, then group, then packet of samples
  template <int N, int... K>
  EIGEN_ALWAYS_INLINE static void multiply(const auto& those, Packet (&c)[Vectors], const Packet (&rows)[N],
                                           const S* column, Index apart, std::integer_sequence<int, K...>) {
    ((c[K % Vectors] = Simd::multiply_add(
          rows[K],
          those.of(
              Simd::template broadcast<Group>(column + K / (groups * Vectors) * apart + K / Vectors % groups * Group),
              K / Vectors % groups),
          c[K % Vectors])),
     ...);
  }
};

template <class S>
struct StreamedTransposed {
  static constexpr int lanes = Simd<S>::lanes;
  static constexpr int quad = Simd<S>::quad;
  static constexpr int max_vectors = Blocking<S>::streamed_packets;
  static constexpr Index max_samples = quad > 1 ? 4 * max_vectors : lanes > 1 ? max_vectors : 0;

  /// dy: at most max_samples samples. cols: columns of W0; begin and end at multiples of MR, or at its end.
  static void run(const PanelLayout<S>& layout, const S* panels, const Columns<S>& dy, MutableColumns<S> dx,
                  const LowRankTerm<S>& term, const Interval& cols) {
    if (term.rank > 0) {
      packed_product_part<S>({layout.cols, 0}, nullptr, dy, dx, term, cols);  // dx = V G, by a weight without columns
    } else {
      for (Index j = 0; j < dx.cols(); ++j) std::fill_n(&dx(cols.first, j), cols.last - cols.first, S(0));
    }
    if (dy.cols() <= max_vectors) {
      add<lanes>(dy.cols(), counted<max_vectors>, layout, panels, dy, dx, cols);
    } else if constexpr (quad > 1) {
      add<quad>((dy.cols() + 3) / 4, counted<max_vectors>, layout, panels, dy, dx, cols);
    }
  }

 private:
  template <int Group, int... K>
  static void add(Index vectors, std::integer_sequence<int, K...>, auto&... arguments) {
    ((vectors == K + 1 ? StreamedPass<S, K + 1, Group>::run(arguments...) : void()), ...);
  }
};

}  // namespace lora::inline LORA_ABI::detail
