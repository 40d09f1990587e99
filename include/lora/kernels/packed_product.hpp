#pragma once
/// y = W0 x + U Z from the panels of W0.
///
///   for some samples
///     for each block of columns        the rows of x that meet it stay in the second cache
///       for each panel of the block    stays in the first cache, or passes once if samples are few
///         for each tile of samples     (panel rows, a few samples) of y, in registers: panel columns times rows of x,
///                                      then columns of U times rows of Z
///
/// y is written once per block of columns. x, U and Z are read where they lie. Rows of whole panels, and samples of
/// whole tiles, may be multiplied in separate calls: the numbers stay the same to the bit. Of a large W0, the first
/// tiles of a panel ask memory for the next panel, each for its share.

#include "lora/kernels/panel_layout.hpp"
#include "lora/kernels/split.hpp"
#include "lora/kernels/tile_store.hpp"

#include <array>
#include <bit>

namespace lora::detail {

/// A matrix in memory whose columns are contiguous.
template <class S>
using Columns = Eigen::Ref<const Matrix<S>, 0, Eigen::OuterStride<>>;
template <class S>
using MutableColumns = Eigen::Ref<Matrix<S>, 0, Eigen::OuterStride<>>;

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

  /// That of the samples from `sample` on.
  LowRankTerm from(Index sample) const {
    LowRankTerm some = *this;
    if (rank > 0) some.right += sample * right_stride;
    return some;
  }

  static constexpr Index block = 32;  ///< ranks that one pass adds
  Index passes() const { return (rank + block - 1) / block; }
  Index ranks_in(Index pass) const { return std::clamp<Index>(rank - pass * block, 0, block); }
};

/// product_tile for every number of columns and packets.
template <class S>
struct ProductTiles {
  static constexpr int columns = PanelLayout<S>::tile_samples;
  /// A tile of fewer columns never asks. Where there are several tiles, none has fewer.
  static constexpr int fewest_asking = columns / 2;
  /// How many tiles ask, the first ones of a panel: 1, 2 or 4, so that shares are whole. One that asked for more at a
  /// time than memory can bring would wait. For a few samples it does not pay, nor, with SSE2, for a tile on its own.
  static Index asking(Index samples) {
    if (samples <= (Simd<S>::tight ? columns : columns / 2)) return 0;
    return std::min<Index>(4, Index(std::bit_floor(std::size_t(samples + columns - 1) / columns)));
  }
  using Function = void (*)(const TileSum<S>*, int, S*, Index, Index, bool);

  /// Tiles are 1, 2, 3 packets high, or 1, 2, 4, 6: every other height would take long to compile.
  static constexpr int step = PanelLayout<S>::vectors > 3 ? 2 : 1;
  static constexpr int heights = PanelLayout<S>::vectors / step + step - 1;
  static constexpr int height(int k) { return step == 1 ? k + 1 : std::max(1, 2 * k); }
  /// Of the lowest tile that has so many rows.
  static Index packets(Index rows) {
    const Index least = (rows + Simd<S>::lanes - 1) / Simd<S>::lanes;
    return least > 1 ? (least + step - 1) / step * step : least;
  }

  static Function get(Index tile_columns, Index vectors) {
    static constexpr auto table = []<int... I>(std::integer_sequence<int, I...>) {
      return std::array<Function, sizeof...(I)>{&product_tile<S, I / heights + 1, height(I % heights)>...};
    }(counted<columns * heights>);
    return table[static_cast<std::size_t>((tile_columns - 1) * heights + (step == 1 ? vectors - 1 : vectors / step))];
  }

  /// The same for whole panels, and asks for the next one.
  static Function get_asking(Index tile_columns) {
    static constexpr auto table = []<int... I>(std::integer_sequence<int, I...>) {
      return std::array<Function, sizeof...(I)>{&product_tile<S, fewest_asking + I, PanelLayout<S>::vectors,  //
                                                              Asks::packets>...};
    }(counted<columns - fewest_asking + 1>);
    return table[static_cast<std::size_t>(tile_columns - fewest_asking)];
  }

  /// f(first, count) for tiles as equal as can be: five and four samples are faster than eight and one.
  static void for_each(Index samples, auto&& f) {
    Index tiles = (samples + columns - 1) / columns;
    for (Index first = 0; first < samples; --tiles) {
      const Index count = (samples - first + tiles - 1) / tiles;
      f(first, count);
      first += count;
    }
  }

  /// Where a tile begins, at `sample` or next after it. The samples before and behind have, each on their own, the same
  /// tiles that they have together.
  static Index boundary(Index samples, Index sample) {
    const auto beginning = [](Index of, Index size) { return (of + size - 1) / size * size; };
    const Index tiles = std::max<Index>(1, (samples + columns - 1) / columns), size = samples / tiles;
    const Index larger = samples % tiles * (size + 1);
    return sample <= larger ? beginning(sample, size + 1) : larger + beginning(sample - larger, size);
  }
};

/// A panel in memory: its columns are `step` apart, and as a rule so are those of the one that follows it.
template <class S>
struct Panel {
  const S* numbers;
  Index step;
  const S* next;  ///< what to ask for; null if nothing
};

/// panel_at(row, first_col): the panel that begins there. rows: begin and end with a panel. add: to what y is.
template <class S>
void panel_product(const PanelLayout<S>& layout, auto&& panel_at, const Columns<S>& x, MutableColumns<S>& y,
                   const LowRankTerm<S>& term, Interval rows, bool add = false) {
  using Layout = PanelLayout<S>;
  using Tiles = ProductTiles<S>;
  constexpr Index lanes = Simd<S>::lanes;
  const Index blocks = (layout.cols + Layout::width - 1) / Layout::width;
  const Index passes = std::max(blocks, term.passes());
  const Index asking = Tiles::asking(x.cols());
  for (Index pass = 0; pass < passes; ++pass) {
    const Index first_col = std::min(pass * Layout::width, layout.cols);
    const Index depth = layout.block_cols(first_col);
    const Index ranks = term.ranks_in(pass), first_rank = pass * term.block;
    for (Index row = rows.first; row < std::min(rows.last, layout.rows); row += Layout::height) {
      const Index height = layout.panel_rows(row), vectors = Tiles::packets(height);
      TileSum<S> sums[2];
      if (depth > 0) {
        const Panel<S> panel = panel_at(row, first_col);
        sums[0].vectors = panel.numbers;
        sums[0].vector_step = panel.step;
        if (height == Layout::height && panel.next != nullptr && asking > 0) {
          sums[0].ahead = panel.next;
          sums[0].ahead_step = panel.step / asking;
        }
      }
      sums[0].scalar_stride = x.outerStride();
      sums[0].scalar_step = 1;
      sums[0].steps = depth;

      alignas(64) S edge[LowRankTerm<S>::block * Layout::height];  // columns of U, where packets would reach beyond it
      if (ranks > 0) {
        sums[1].vectors = term.left + first_rank * term.left_stride + row;
        sums[1].vector_step = term.left_stride;
        sums[1].scalar_stride = term.right_stride;
        sums[1].scalar_step = 1;
        sums[1].steps = ranks;
      }
      if (ranks > 0 && height != vectors * lanes) {
        for (Index r = 0; r < ranks; ++r) {
          std::fill_n(std::copy_n(sums[1].vectors + r * term.left_stride, height, edge + r * Layout::height),
                      Layout::height - height, S(0));
        }
        sums[1].vectors = edge;
        sums[1].vector_step = Layout::height;
      }
      sums[1].ahead = sums[1].vectors;  // an address that is valid: U needs no asking

      Index left_to_ask = sums[0].ahead != nullptr ? asking : 0;
      Tiles::for_each(x.cols(), [&](Index sample, Index count) {
        sums[0].scalars = x.data() + sample * x.outerStride() + first_col;
        if (ranks > 0) sums[1].scalars = term.right + sample * term.right_stride + first_rank;
        const bool asks = left_to_ask > 0;
        const auto tile = asks ? Tiles::get_asking(count) : Tiles::get(count, vectors);
        tile(sums, ranks > 0 ? 2 : 1, &y(row, sample), y.outerStride(), height, add || pass > 0);
        if (asks) {
          --left_to_ask;
          sums[0].ahead += depth * sums[0].ahead_step;
        }
      });
    }
  }
}

/// Of so many, 264 rows of x and the rows of a panel of y are 150 KiB of floats: they stay in the second cache.
inline constexpr Index samples_at_once = 128;

/// y = W0 x + U Z on this thread. rows: begin and end with a panel. add: to what y is.
template <class S>
void packed_product_part(const PanelLayout<S>& layout, const S* panels, const Columns<S>& x, MutableColumns<S> y,
                         const LowRankTerm<S>& term, Interval rows, bool add = false) {
  const bool large = layout.large();
  const auto panel_at = [&](Index row, Index first_col) -> Panel<S> {
    const S* const panel = panels + layout.offset(row, first_col);
    const Index height = layout.panel_rows(row);
    return {panel, height, large ? panel + height * layout.block_cols(first_col) : nullptr};
  };
  for (Index sample = 0; sample < x.cols();) {
    const Index left = x.cols() - sample, cut = ProductTiles<S>::boundary(left, samples_at_once);
    const Index samples = left < samples_at_once * 3 / 2 ? left : cut;  // the last ones would read all of W0 for little
    MutableColumns<S> some_y = y.middleCols(sample, samples);
    panel_product<S>(layout, panel_at, x.middleCols(sample, samples), some_y, term.from(sample), rows, add);
    sample += samples;
  }
}

/// For a product with W0: a few samples wait for W0 to come from memory, and take as long as four.
inline double product_size(Index rows, Index cols, Index samples) {
  return static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(std::max<Index>(samples, 4));
}

/// y = W0 x + U Z, shared by the threads of an executor if there is one.
template <class S>
void packed_product(const PanelLayout<S>& layout, const S* panels, const Columns<S>& x, MutableColumns<S> y,
                    const LowRankTerm<S>& term = {}, Executor* executor = nullptr) {
  eigen_assert(x.rows() == layout.cols && y.rows() == layout.rows && x.cols() == y.cols());
  constexpr Index height = PanelLayout<S>::height;
  const auto split = Split::choose<S>(product_size(layout.rows, layout.cols, x.cols()),
                                      split_threshold(1e6, 512, term.rank * layout.rows), layout.rows, height, x.cols(),
                                      samples_at_once);
  const auto tiles = [&](Index sample) { return ProductTiles<S>::boundary(x.cols(), sample); };
  for_each_part(executor, split, layout.rows, multiples_of(height, layout.rows), x.cols(), tiles,
                [&](Interval rows, Interval samples) {
                  packed_product_part<S>(layout, panels, columns_in(x, samples), columns_in(y, samples),
                                         term.from(samples.first), rows);
                });
}

}  // namespace lora::detail
