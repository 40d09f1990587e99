#pragma once
/// y = W0 x + U Z from the panels of W0.
///
///   for each NC samples
///     for each block of KC columns     its KC rows of x stay in L2
///       for each panel of the block    stays in L1, or is streamed once if samples are few
///         for each tile of samples     (MR, NR) of y, in registers: panel columns times rows of x, then columns of U
///                                      times rows of Z
///
/// A single sample, which would leave most registers empty, has tiles of its own: single_sample.hpp.
///
/// y is written once per block of columns. x, U and Z are read in place. Splitting the rows at panels, and the samples
/// at tiles, changes no bit of the result. If W0 is larger than L2, the first tiles of a panel prefetch equal shares of
/// the next.

#include "lora/kernels/columns.hpp"
#include "lora/kernels/pack_rows.hpp"
#include "lora/kernels/panel_layout.hpp"
#include "lora/kernels/single_sample.hpp"
#include "lora/kernels/split.hpp"
#include "lora/kernels/tile_store.hpp"

#include <array>
#include <bit>

namespace lora::inline LORA_ABI::detail {

/// The low-rank term left right: left (rows, rank), right (rank, samples). Rank 0: none.
template <class S>
struct LowRankTerm {
  const S* left = nullptr;
  Index left_stride = 0;
  const S* right = nullptr;
  Index right_stride = 0;
  Index rank = 0;

  LowRankTerm() = default;
  LowRankTerm(const Columns<S>& left_factor, const Columns<S>& right_factor)
      : left(left_factor.data()),
        left_stride(left_factor.outerStride()),
        right(right_factor.data()),
        right_stride(right_factor.outerStride()),
        rank(left_factor.cols()) {
    eigen_assert(left_factor.cols() == right_factor.rows());
  }

  /// The term for the samples from `sample` on.
  LowRankTerm from(Index sample) const {
    LowRankTerm some = *this;
    if (rank > 0) some.right += sample * right_stride;
    return some;
  }

  static constexpr Index block = Blocking<S>::kc_rank;
  Index passes() const { return (rank + block - 1) / block; }
  Index ranks_in(Index pass) const { return std::clamp<Index>(rank - pass * block, 0, block); }
};

/// Tables of product_tile for every number of columns and packets.
template <class S>
struct ProductTiles {
  static constexpr int columns = Blocking<S>::nr;
  /// Min columns of a tile that prefetches. If there are several tiles, each has at least these.
  static constexpr int min_prefetching_columns = columns / 2;
  /// How many of the first tiles of a panel prefetch: 0, 1, 2 or 4, so that shares are whole.
  static Index prefetching_tiles(Index samples) {
    if (samples <= Blocking<S>::unprefetched_samples) return 0;
    return std::min<Index>(Blocking<S>::prefetching_tiles,
                           Index(std::bit_floor(std::size_t(samples + columns - 1) / columns)));
  }
  using Function = void (*)(const TileSum<S>*, int, S*, Index, Index, bool);

  /// Tiles are 1, 2, 3 packets high, or 1, 2, 4, 6: instantiating every height would take long to compile.
  static constexpr int step = Blocking<S>::mr_packets > 3 ? 2 : 1;
  static constexpr int heights = Blocking<S>::mr_packets / step + step - 1;
  static constexpr int height(int k) { return step == 1 ? k + 1 : std::max(1, 2 * k); }
  /// The height in packets of the lowest tile with at least `rows` rows.
  static Index packets(Index rows) {
    const Index needed = (rows + Simd<S>::lanes - 1) / Simd<S>::lanes;
    return needed > 1 ? (needed + step - 1) / step * step : needed;
  }

  static Function get(Index tile_columns, Index vectors) {
    static constexpr auto table = []<int... I>(std::integer_sequence<int, I...>) {
      return std::array<Function, sizeof...(I)>{&product_tile<S, I / heights + 1, height(I % heights)>...};
    }(counted<columns * heights>);
    return table[static_cast<std::size_t>((tile_columns - 1) * heights + (step == 1 ? vectors - 1 : vectors / step))];
  }

  /// The tile of whole panels that prefetches the next panel.
  static Function get_prefetching(Index tile_columns) {
    static constexpr auto table = []<int... I>(std::integer_sequence<int, I...>) {
      return std::array<Function, sizeof...(I)>{
          &product_tile<S, min_prefetching_columns + I, Blocking<S>::mr_packets,  //
                        PrefetchPolicy::l2_packets>...};
    }(counted<columns - min_prefetching_columns + 1>);
    return table[static_cast<std::size_t>(tile_columns - min_prefetching_columns)];
  }

  /// Calls f(first, count) for tiles as equal as possible: five and four samples are faster than eight and one.
  static void for_each(Index samples, auto&& f) {
    if (samples <= columns) return f(Index(0), samples);
    const Index tiles = (samples + columns - 1) / columns, size = samples / tiles, larger = samples % tiles;
    for (Index k = 0, first = 0; k < tiles; ++k) {
      const Index count = k < larger ? size + 1 : size;
      f(first, count);
      first += count;
    }
  }

  /// The first tile boundary at or after `sample`. Splitting there leaves the tiling, hence the bits, unchanged.
  static Index boundary(Index samples, Index sample) {
    const auto beginning = [](Index of, Index size) { return (of + size - 1) / size * size; };
    const Index tiles = std::max<Index>(1, (samples + columns - 1) / columns), size = samples / tiles;
    const Index larger = samples % tiles * (size + 1);
    return sample <= larger ? beginning(sample, size + 1) : larger + beginning(sample - larger, size);
  }
};

/// A panel in memory. Its columns are `step` apart, and usually so are the columns of the next panel.
template <class S>
struct Panel {
  const S* elements;
  Index step;
  const S* next;  ///< what to prefetch; null: nothing
};

/// panel_product of a single sample. panels_at(row, first_col): where the panels from there on lie.
template <class S>
void sample_product(const PanelLayout<S>& layout, auto&& panels_at, const S* x, S* y, const LowRankTerm<S>& term,
                    Interval rows, bool add) {
  constexpr Index mr = Blocking<S>::mr;
  rows.last = std::min(rows.last, layout.rows);
  const Index whole = rows.first + (rows.last - rows.first) / mr * mr;
  const Index passes = std::max((layout.cols + Blocking<S>::kc - 1) / Blocking<S>::kc, term.passes());
  for (Index pass = 0; pass < passes; ++pass) {
    const Index first_col = std::min(pass * Blocking<S>::kc, layout.cols);
    const Index depth = layout.block_cols(first_col);
    const Index ranks = term.ranks_in(pass), first_rank = pass * term.block;
    const auto multiply = [&](Index row, Index count) {
      SampleSum<S> sums[2];
      if (depth > 0) {
        sums[0] = panels_at(row, first_col);
        sums[0].scalars = x + first_col;
        sums[0].steps = depth;
      }
      alignas(64) S edge[LowRankTerm<S>::block * mr];  // columns of U, padded at its edge
      if (ranks > 0) {
        const S* const left = term.left + first_rank * term.left_stride + row;
        sums[1] = {left, mr, term.left_stride, term.right + first_rank, ranks};
        if (count < mr) {
          pack_padded(left, term.left_stride, count, ranks, mr, edge);
          sums[1].vectors = edge;
          sums[1].step = mr;
        }
      }
      sample_rows(sums, ranks > 0 ? 2 : 1, y + row, count, add || pass > 0);
    };
    if (whole > rows.first) multiply(rows.first, whole - rows.first);
    if (whole < rows.last) multiply(whole, rows.last - whole);
  }
}

/// For two samples or more. panel_at(row, first_col): the panel that begins there. rows: from and to panel boundaries.
/// add: y += instead of y =.
template <class S>
void panel_product(const PanelLayout<S>& layout, auto&& panel_at, const Columns<S>& x, MutableColumns<S>& y,
                   const LowRankTerm<S>& term, Interval rows, bool add = false) {
  using Tiles = ProductTiles<S>;
  constexpr Index lanes = Simd<S>::lanes;
  const Index blocks = (layout.cols + Blocking<S>::kc - 1) / Blocking<S>::kc;
  const Index passes = std::max(blocks, term.passes());
  const Index prefetching = Tiles::prefetching_tiles(x.cols());
  for (Index pass = 0; pass < passes; ++pass) {
    const Index first_col = std::min(pass * Blocking<S>::kc, layout.cols);
    const Index depth = layout.block_cols(first_col);
    const Index ranks = term.ranks_in(pass), first_rank = pass * term.block;
    for (Index row = rows.first; row < std::min(rows.last, layout.rows); row += Blocking<S>::mr) {
      const Index height = layout.panel_rows(row), vectors = Tiles::packets(height);
      TileSum<S> sums[2];
      if (depth > 0) {
        const Panel<S> panel = panel_at(row, first_col);
        sums[0].vectors = panel.elements;
        sums[0].vector_step = panel.step;
        if (height == Blocking<S>::mr && panel.next != nullptr && prefetching > 0) {
          sums[0].prefetch = panel.next;
          sums[0].prefetch_step = panel.step / prefetching;
        }
      }
      sums[0].scalar_stride = x.outerStride();
      sums[0].scalar_step = 1;
      sums[0].steps = depth;

      alignas(64) S edge[LowRankTerm<S>::block * Blocking<S>::mr];  // columns of U, padded at its edge
      if (ranks > 0) {
        sums[1].vectors = term.left + first_rank * term.left_stride + row;
        sums[1].vector_step = term.left_stride;
        sums[1].scalar_stride = term.right_stride;
        sums[1].scalar_step = 1;
        sums[1].steps = ranks;
      }
      if (ranks > 0 && height != vectors * lanes) {
        pack_padded(sums[1].vectors, term.left_stride, height, ranks, Blocking<S>::mr, edge);
        sums[1].vectors = edge;
        sums[1].vector_step = Blocking<S>::mr;
      }
      sums[1].prefetch = sums[1].vectors;  // a valid address: U needs no prefetching

      Index left_to_prefetch = sums[0].prefetch != nullptr ? prefetching : 0;
      Tiles::for_each(x.cols(), [&](Index sample, Index count) {
        sums[0].scalars = x.data() + sample * x.outerStride() + first_col;
        if (ranks > 0) sums[1].scalars = term.right + sample * term.right_stride + first_rank;
        const bool prefetches = left_to_prefetch > 0;
        const auto tile = prefetches ? Tiles::get_prefetching(count) : Tiles::get(count, vectors);
        tile(sums, ranks > 0 ? 2 : 1, &y(row, sample), y.outerStride(), height, add || pass > 0);
        if (prefetches) {
          --left_to_prefetch;
          sums[0].prefetch += depth * sums[0].prefetch_step;
        }
      });
    }
  }
}

/// y = W0 x + U Z on this thread. rows: begin and end at panel boundaries. add: y += instead of y =.
template <class S>
void packed_product_part(const PanelLayout<S>& layout, const S* panels, const Columns<S>& x, MutableColumns<S> y,
                         const LowRankTerm<S>& term, Interval rows, bool add = false) {
  if (x.cols() == 1) {
    const auto panels_at = [&](Index row, Index first_col) -> SampleSum<S> {
      const Index height = layout.panel_rows(row);
      return {panels + layout.offset(row, first_col), height * layout.block_cols(first_col), height};
    };
    return sample_product(layout, panels_at, x.data(), y.data(), term, rows, add);
  }
  const bool large = layout.large();
  const auto panel_at = [&](Index row, Index first_col) -> Panel<S> {
    const S* const panel = panels + layout.offset(row, first_col);
    const Index height = layout.panel_rows(row);
    return {panel, height, large ? panel + height * layout.block_cols(first_col) : nullptr};
  };
  constexpr Index max_samples = Blocking<S>::nc * 3 / 2;  // a short last chunk would stream all of W0 for few samples
  for (Index sample = 0; sample < x.cols();) {
    const Index left = x.cols() - sample;
    const Index samples = left < max_samples ? left : ProductTiles<S>::boundary(left, Blocking<S>::nc);
    MutableColumns<S> some_y = middle_columns(y, sample, samples);
    panel_product<S>(layout, panel_at, middle_columns(x, sample, samples), some_y, term.from(sample), rows, add);
    sample += samples;
  }
}

/// The multiply-adds of a product with W0. Fewer than four samples are memory-bound and take as long as four.
inline double product_size(Index rows, Index cols, Index samples) {
  return static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(std::max<Index>(samples, 4));
}

/// y = W0 x + U Z, split among the threads of an executor if there is one.
template <class S>
void packed_product(const PanelLayout<S>& layout, const S* panels, const Columns<S>& x, MutableColumns<S> y,
                    const LowRankTerm<S>& term = {}, Executor* executor = nullptr) {
  eigen_assert(x.rows() == layout.cols && y.rows() == layout.rows && x.cols() == y.cols());
  constexpr Index height = Blocking<S>::mr;
  const auto split = Split::choose<S>(product_size(layout.rows, layout.cols, x.cols()),
                                      split_threshold(1e6, 512, term.rank * layout.rows), layout.rows, height, x.cols(),
                                      Blocking<S>::nc);
  const auto tiles = [&](Index sample) { return ProductTiles<S>::boundary(x.cols(), sample); };
  for_each_part(executor, split, layout.rows, multiples_of(height, layout.rows), x.cols(), tiles,
                [&](Interval rows, Interval samples) {
                  packed_product_part<S>(layout, panels, columns_in(x, samples), columns_in(y, samples),
                                         term.from(samples.first), rows);
                });
}

}  // namespace lora::inline LORA_ABI::detail
