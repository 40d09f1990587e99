#pragma once
/// dx = W0^T dy + V G from the panels that serve y = W0 x: one packed copy of W0 is enough for training.
///
///   for some samples
///     for some rows of dy            are copied so that samples lie side by side; they stay in the caches
///       for 8 columns of W0          in panel after panel
///         for each packet of samples (8 columns, samples) of dx, in registers: rows of dy times numbers of W0, which
///                                    are broadcast on their way from memory; then rows of G times numbers of V
///
/// Each of the three ways to fill a packet has its reason:
///   wide   as many samples as lanes
///   quad   four samples, each with a quarter of the lanes, which hold neighbouring rows of dy
///   dot    one sample: dy is read where it lies
///
/// Columns of whole tiles, and samples of whole passes, may be multiplied in separate calls: the numbers stay the same
/// to the bit.

#include "lora/base/packed_product.hpp"
#include "lora/base/side_by_side.hpp"

namespace lora::detail {

/// transposed_tile for the numbers of samples that it is good at.
template <class S>
struct TransposedTiles {
  using Function = void (*)(const TileSum<S>*, int, S*, Index, Index, Index, bool);
  static constexpr int lanes = Simd<S>::lanes;
  static constexpr int columns = Simd<S>::registers >= 32 ? 8 : 4;
  static constexpr int wide_vectors = Simd<S>::registers >= 32 ? 2 : 3;
  static constexpr int most_samples = std::max(32, lanes* wide_vectors);  ///< at a time
  static constexpr int most_groups = most_samples / (lanes * wide_vectors) + 3;
  static constexpr int most_packed = most_samples + 3 * lanes;  ///< numbers in one row of all groups

  /// Some samples that are multiplied together, and how.
  struct Choice {
    int rows;       ///< of dy in a packet: the Group of the kernel
    Index vectors;  ///< packets
    Index first;    ///< sample
    Index samples;
    Function tile;

    Index width() const { return vectors * lanes / rows; }  ///< samples that the packets have room for
  };

  /// The next of `samples` that are left.
  static Choice choose(Index first, Index samples) {
    constexpr int quad = Simd<S>::quad;
    if (samples <= 3 && lanes > 1) return {lanes, samples, first, samples, get<lanes, 3>(samples)};
    if (samples <= 12 && quad > 1) return {quad, (samples + 3) / 4, first, samples, get<quad, 3>((samples + 3) / 4)};
    const Index taken = std::min<Index>(samples, wide_vectors * lanes), vectors = (taken + lanes - 1) / lanes;
    return {1, vectors, first, taken, get<1, wide_vectors>(vectors)};
  }

 private:
  template <int Rows, int Most>
  static Function get(Index vectors) {
    static constexpr auto table = []<int... I>(std::integer_sequence<int, I...>) {
      return std::array<Function, Most>{&transposed_tile<S, columns, I + 1, Rows>...};
    }(std::make_integer_sequence<int, Most>{});
    return table[static_cast<std::size_t>(vectors - 1)];
  }
};

/// One pass over W0 for as many samples as fit; holds the copies of dy and G.
template <class S>
class PackedTransposed {
  using Layout = PanelLayout<S>;
  using Tiles = TransposedTiles<S>;
  static constexpr Index lanes = Simd<S>::lanes;
  static constexpr Index most_numbers = 65536 / static_cast<Index>(sizeof(S));  // of dy side by side
  static constexpr Index most_ranks = LowRankTerm<S>::block;

 public:
  /// cols: of W0; begin and end with a tile.
  static void run(const Layout& layout, const S* panels, const Columns<S>& dy, MutableColumns<S> dx,
                  const LowRankTerm<S>& term = {}, Interval cols = {}) {
    cols.last = std::min(cols.last, layout.cols);
    for (Index sample = 0; sample < dy.cols();) {
      PackedTransposed pass(layout, panels, dy, dx, term);
      sample = pass.choose_groups(sample);
      pass.multiply(cols);
    }
  }

  /// Where a pass begins, at `sample` or next after it. The samples before and behind have, each on their own, the same
  /// passes that they have together.
  static Index boundary(Index samples, Index sample) {
    Index end = 0;
    while (end < sample) end = for_each_choice(end, samples, [](const auto&) {});
    return end;
  }

 private:
  /// Samples that are multiplied together, and what is added for them: full panels, the groups of rows of the last one,
  /// its remaining rows, the low-rank term.
  struct Group : Tiles::Choice {
    TileSum<S> sums[4];
    Index advance[4];  ///< of the scalars, from one tile to the next
    int count;

    TileSum<S>& next(const S* scalars, Index stride, Index step, Index steps, Index scalars_of_a_tile) {
      advance[count] = scalars_of_a_tile;
      sums[count] = TileSum<S>();
      TileSum<S>& sum = sums[count++];
      sum.scalars = sum.ahead = scalars;
      sum.scalar_stride = stride;
      sum.scalar_step = step;
      sum.steps = steps;
      sum.vector_step = this->vectors * lanes;
      return sum;
    }
  };

  PackedTransposed(const Layout& layout, const S* panels, const Columns<S>& dy, MutableColumns<S>& dx,
                   const LowRankTerm<S>& term)
      : layout_(layout), panels_(panels), dy_(dy), dx_(dx), term_(term) {}

  /// f(choice) for the samples of the pass that begins with `sample`; returns where it ends.
  static Index for_each_choice(Index sample, Index samples, auto&& f) {
    for (Index width = 0; sample < samples;) {
      const typename Tiles::Choice choice = Tiles::choose(sample, samples - sample);
      width += choice.width();
      if (width > Tiles::most_samples) break;
      f(choice);
      sample += choice.samples;
    }
    return sample;
  }

  Index choose_groups(Index sample) {
    return for_each_choice(sample, dy_.cols(), [&](const typename Tiles::Choice& choice) {
      static_cast<typename Tiles::Choice&>(groups_[count_++]) = choice;
      width_ += choice.width();
    });
  }

  void multiply(Interval cols) {
    // One to three samples are done with a row before the next panel has come from memory; of large W0, fewer panels at
    // a time then.
    const bool waits = width_ <= 3 && layout_.rows > 1024;
    const Index most_rows =
        waits ? 4 * Layout::height : std::max(Layout::height, most_numbers / width_ / Layout::height * Layout::height);
    const Index blocks = (layout_.rows + most_rows - 1) / most_rows;
    const Index passes = std::max(blocks, term_.passes());
    for (Index pass = 0; pass < passes; ++pass) {
      first_row_ = std::min(pass * most_rows, layout_.rows);
      rows_ = std::min(most_rows, layout_.rows - first_row_);
      first_rank_ = pass * term_.block;
      ranks_ = term_.ranks_in(pass);
      lay_samples();
      for (Index col = cols.first; col < cols.last;) {
        const Index block = col / Layout::width * Layout::width;
        const Index end = std::min(block + layout_.block_cols(block), cols.last);
        multiply_block(block, {col, end}, pass > 0);
        col = end;
      }
    }
  }

  /// The rows of a panel that are added one at a time.
  static Index singles(const Group& group, Index rows) { return rows % Layout::height % group.rows; }

  bool direct(const Group& group) const { return group.rows == lanes && lanes > 1; }

  void lay_samples() {
    S *to = dy_side_by_side_, *single = singles_;
    for (int g = 0; g < count_; ++g) {
      const Group& group = groups_[g];
      const Index width = group.width(), single_rows = singles(group, rows_), grouped = rows_ - single_rows;
      const S* const dy = dy_.data() + group.first * dy_.outerStride() + first_row_;
      if (!direct(group)) {
        lay_samples_side_by_side(dy, dy_.outerStride(), grouped, group.samples, width, group.rows, to);
        to += grouped * width;
      }
      lay_single_rows(dy + grouped, dy_.outerStride(), single_rows, group.samples, width, group.rows, single);
      single += single_rows * width * group.rows;
      if (ranks_ == 0) continue;
      lay_single_rows(term_.right + group.first * term_.right_stride + first_rank_, term_.right_stride, ranks_,
                      group.samples, width, group.rows, single);
      single += ranks_ * width * group.rows;
    }
  }

  /// Columns of the block of W0 that begins with column `block`, for all groups of samples.
  void multiply_block(Index block, Interval cols, bool add) {
    describe_block(block, cols.first);
    alignas(64) S edge[most_ranks * Tiles::columns];
    for (Index col = cols.first; col < cols.last; col += Tiles::columns) {
      const Index columns = std::min<Index>(Tiles::columns, cols.last - col);
      if (ranks_ > 0 && col + Tiles::columns > layout_.cols) copy_edge_of_factor(col, edge);
      for (int g = 0; g < count_; ++g) {
        Group& group = groups_[g];
        group.tile(group.sums, group.count, &dx_(col, group.first), dx_.outerStride(), columns, group.samples, add);
        for (int k = 0; k < group.count; ++k) {
          group.sums[k].scalars += group.advance[k];
          group.sums[k].ahead += group.advance[k];
        }
      }
    }
  }

  /// The tile at column first_col of the block.
  void describe_block(Index block, Index first_col) {
    const Index full = rows_ / Layout::height, rest = rows_ % Layout::height;
    const Index panel = Layout::height * layout_.block_cols(block);
    const S* const begin = panels_ + layout_.offset(first_row_, block);
    const S* const first = begin + (first_col - block) * Layout::height;
    const S* const last = begin + full * panel + (first_col - block) * rest;
    const S *side_by_side = dy_side_by_side_, *single = singles_;
    for (int g = 0; g < count_; ++g) {
      Group& group = groups_[g];
      const Index packets = group.vectors * lanes, single_rows = singles(group, rest), width = group.width();
      const S* dy = direct(group) ? dy_.data() + group.first * dy_.outerStride() + first_row_ : side_by_side;
      const auto grouped = [&](TileSum<S>& sum, Index row) {
        sum.grouped = true;
        sum.vectors = dy + (direct(group) ? row : row * width);
        sum.vector_run = direct(group) ? Layout::height : Layout::height * width;
        if (!direct(group)) return;
        sum.vector_stride = dy_.outerStride();
        sum.vector_step = lanes;
      };
      group.count = 0;
      if (full > 0) {
        TileSum<S>& sum =
            group.next(first, Layout::height, group.rows, Layout::height / group.rows, Tiles::columns * Layout::height);
        grouped(sum, 0);
        sum.runs = full;
        sum.scalar_run = sum.ahead_run = panel;
        sum.ahead = first + panel;
        sum.ahead_step = std::max<Index>(Simd<S>::line, Tiles::columns * group.rows);
      }
      if (rest >= group.rows) {
        grouped(group.next(last, rest, group.rows, rest / group.rows, Tiles::columns * rest), full * Layout::height);
      }
      if (single_rows > 0) {
        group.next(last + rest - single_rows, rest, 1, single_rows, Tiles::columns * rest).vectors = single;
        single += single_rows * packets;
      }
      if (ranks_ > 0) {
        const S* const factor = term_.left + first_rank_ * term_.left_stride + first_col;
        group.next(factor, 1, term_.left_stride, ranks_, Tiles::columns).vectors = single;
        single += ranks_ * packets;
      }
      side_by_side += direct(group) ? 0 : (rows_ - single_rows) * width;
    }
  }

  /// A tile reads as many numbers of V as it has columns; beyond the last there is a copy with zeros.
  void copy_edge_of_factor(Index col, S* edge) {
    const Index columns = layout_.cols - col;
    std::fill_n(edge, ranks_ * Tiles::columns, S(0));
    for (Index r = 0; r < ranks_; ++r) {
      std::copy_n(term_.left + (first_rank_ + r) * term_.left_stride + col, columns, edge + r * Tiles::columns);
    }
    for (int g = 0; g < count_; ++g) {
      TileSum<S>& sum = groups_[g].sums[groups_[g].count - 1];
      sum.scalars = edge;
      sum.scalar_step = Tiles::columns;
    }
  }

  const Layout& layout_;
  const S* panels_;
  const Columns<S>& dy_;
  MutableColumns<S>& dx_;
  const LowRankTerm<S>& term_;
  Group groups_[Tiles::most_groups + 1];
  int count_ = 0;
  Index width_ = 0, first_row_ = 0, rows_ = 0, first_rank_ = 0, ranks_ = 0;
  alignas(64) S dy_side_by_side_[most_numbers];
  alignas(64) S singles_[(most_ranks + lanes) * Tiles::most_packed];
};

}  // namespace lora::detail
