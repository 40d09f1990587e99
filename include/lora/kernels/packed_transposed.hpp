#pragma once
/// dx = W0^T dy + V G from the same panels as y = W0 x: one packed copy of W0 is enough for training.
///
///   for max_samples samples
///     for a block of rows of dy      packed so that samples are contiguous; stays in L1 and L2
///       for a few columns of W0      in panel after panel
///         for each packet of samples (columns, samples) of dx, in registers: rows of dy times elements of W0,
///                                    which are broadcast as they are loaded; then rows of G times elements of V
///
/// Columns of dx a multiple of 4 KiB apart, as for a weight with 1024 columns of floats, fall into the same set of L1
/// and evict each other: a block of such columns is computed in a buffer first.
///
/// Few samples, or a remainder of few, would leave packets mostly empty: streamed_transposed.hpp computes them.
///
/// Splitting the columns at multiples of MR, and the samples at multiples of max_samples, changes no bit of the result.

#include "lora/kernels/arithmetic.hpp"
#include "lora/kernels/streamed_transposed.hpp"

namespace lora::inline LORA_ABI::detail {

/// A table of transposed_tile by packets of samples.
template <class S>
struct TransposedTiles {
  using Function = void (*)(const TileSum<S>*, int, S*, Index, Index, Index, bool);
  static constexpr int lanes = Simd<S>::lanes;
  static constexpr int columns = Blocking<S>::transposed_columns;
  static constexpr int max_vectors = Blocking<S>::transposed_packets;
  static constexpr int samples = lanes * max_vectors;      ///< samples in a tile
  static constexpr int tiles = std::max(1, 32 / samples);  ///< tiles in a pass over W0

  /// How to prefetch the next panel, as measured: benchmarks/DEAD_ENDS.md.
  static constexpr PrefetchPolicy prefetch_policy(int vectors) {
    return vectors == 1 || max_vectors == 3 ? PrefetchPolicy::l2_line : PrefetchPolicy::l1_line;
  }

  static Function get(Index vectors) {
    static constexpr auto table = []<int... I>(std::integer_sequence<int, I...>) {
      return std::array<Function, max_vectors>{&transposed_tile<S, columns, I + 1, 1, prefetch_policy(I + 1)>...};
    }(counted<max_vectors>);
    return table[static_cast<std::size_t>(vectors - 1)];
  }
};

/// One pass over W0 for at most max_samples samples; holds the packed copies of dy and G.
template <class S>
class PackedTransposed {
  using Layout = PanelLayout<S>;
  using Tiles = TransposedTiles<S>;
  using Streamed = StreamedTransposed<S>;
  static constexpr Index lanes = Simd<S>::lanes;
  static constexpr Index max_ranks = Blocking<S>::kc_rank;
  static constexpr Index max_collected = Blocking<S>::collected_columns;

 public:
  static constexpr Index max_samples = Tiles::samples * Tiles::tiles;  ///< samples in a pass

  /// cols: columns of W0; begin and end at multiples of MR, or at its end.
  static void run(const Layout& layout, const S* panels, const Columns<S>& dy, MutableColumns<S> dx,
                  const LowRankTerm<S>& term = {}, Interval cols = {}) {
    cols.last = std::min(cols.last, layout.cols);
    for (Index sample = 0; sample < dy.cols();) {
      const Index samples = next_pass(dy.cols() - sample);
      const auto some = [&](auto& matrix) { return middle_columns(matrix, sample, samples); };
      const LowRankTerm<S> some_term = term.from(sample);
      if (samples <= Streamed::max_samples) {
        Streamed::run(layout, panels, some(dy), some(dx), some_term, cols);
      } else {
        PackedTransposed(layout, panels, some(dy), some(dx), some_term).multiply(cols);
      }
      sample += samples;
    }
  }

 private:
  /// How many of `left` samples come next: only whole packets if few samples remain, which are faster on their own.
  static Index next_pass(Index left) {
    const Index samples = std::min(max_samples, left), beyond = samples % lanes;
    return samples > lanes && beyond <= Streamed::max_samples ? samples - beyond : samples;
  }

  /// The samples of a tile, and the sums for them: full panels, the remainder panel, the low-rank term.
  struct Tile {
    Index first;  ///< sample
    Index samples;
    Index vectors;  ///< packets
    TileSum<S> sums[3];
    Index advance[3];  ///< distance of the scalars from one tile to the next
    int count;

    Index width() const { return vectors * lanes; }

    TileSum<S>& next(const S* scalars, Index stride, Index step, Index steps, Index scalars_of_a_tile) {
      advance[count] = scalars_of_a_tile;
      sums[count] = TileSum<S>();
      TileSum<S>& sum = sums[count++];
      sum.scalars = sum.prefetch = scalars;
      sum.scalar_stride = stride;
      sum.scalar_step = step;
      sum.steps = steps;
      sum.vector_step = width();
      return sum;
    }
  };

  PackedTransposed(const Layout& layout, const S* panels, const Columns<S>& dy, MutableColumns<S> dx,
                   const LowRankTerm<S>& term)
      : layout_(layout), panels_(panels), dy_(dy), dx_(dx), term_(term) {
    for (Index first = 0; first < dy.cols(); first += Tiles::samples) {
      const Index samples = std::min<Index>(Tiles::samples, dy.cols() - first);
      tiles_[count_] = {first, samples, (samples + lanes - 1) / lanes, {}, {}, 0};
      width_ += tiles_[count_++].width();
    }
  }

  void multiply(Interval cols) {
    const Index max_rows = Blocking<S>::packed_dy / width_ / Blocking<S>::mr * Blocking<S>::mr;
    const Index blocks = (layout_.rows + max_rows - 1) / max_rows;
    const Index passes = std::max(blocks, term_.passes());
    for (Index pass = 0; pass < passes; ++pass) {
      first_row_ = std::min(pass * max_rows, layout_.rows);
      rows_ = std::min(max_rows, layout_.rows - first_row_);
      first_rank_ = pass * term_.block;
      ranks_ = term_.ranks_in(pass);
      pack_samples();
      for (Index col = cols.first; col < cols.last;) {
        const Index block = col / Blocking<S>::kc * Blocking<S>::kc;
        Index end = std::min(block + layout_.block_cols(block), cols.last);
        if (collects()) end = std::min(end, col + max_collected);
        multiply_block(block, {col, end}, pass > 0);
        col = end;
      }
    }
  }

  void pack_samples() {
    S *to = packed_dy_, *ranks = packed_ranks_;
    for (Index k = 0; k < count_; ++k) {
      const Tile& tile = tiles_[k];
      pack_rows(dy_.data() + tile.first * dy_.outerStride() + first_row_, dy_.outerStride(), rows_, tile.samples,
                tile.width(), 1, to);
      to += rows_ * tile.width();
      if (ranks_ == 0) continue;
      pack_rows(term_.right + tile.first * term_.right_stride + first_rank_, term_.right_stride, ranks_, tile.samples,
                tile.width(), 1, ranks);
      ranks += ranks_ * tile.width();
    }
  }

  bool collects() const { return dx_.outerStride() % Blocking<S>::same_set == 0; }

  /// Computes `cols`, in the block of W0 that begins with column `block`, for all samples.
  void multiply_block(Index block, Interval cols, bool add) {
    MutableColumns<S> dx = middle_rows(dx_, cols.first, cols.last - cols.first);
    if (!collects()) return multiply_into(dx, block, cols, add);
    alignas(64) S collected_elements[max_samples * (max_collected + Simd<S>::line)];
    static_assert(sizeof(PackedTransposed) + sizeof(collected_elements) < 115 << 10,
                  "packed.hpp says how much stack a product needs");
    MutableColumns<S> collected = Eigen::Map<Matrix<S>, 0, Eigen::OuterStride<>>(
        collected_elements, dx.rows(), dx.cols(), Eigen::OuterStride<>(max_collected + Simd<S>::line));
    multiply_into(collected, block, cols, false);
    if (add) {
      add_columns<S>(S(1), collected, dx);
    } else {
      copy_columns<S>(collected, dx);
    }
  }

  /// dx: the rows of the result for `cols` alone.
  void multiply_into(MutableColumns<S>& dx, Index block, Interval cols, bool add) {
    describe_block(block, cols.first);
    alignas(64) S edge[max_ranks * Tiles::columns];
    for (Index col = cols.first; col < cols.last; col += Tiles::columns) {
      const Index columns = std::min<Index>(Tiles::columns, cols.last - col);
      if (ranks_ > 0 && col + Tiles::columns > layout_.cols) copy_edge_of_factor(col, edge);
      for (Index k = 0; k < count_; ++k) {
        Tile& tile = tiles_[k];
        Tiles::get(tile.vectors)(tile.sums, tile.count, &dx(col - cols.first, tile.first), dx.outerStride(), columns,
                                 tile.samples, add);
        for (int sum = 0; sum < tile.count; ++sum) {
          tile.sums[sum].scalars += tile.advance[sum];
          tile.sums[sum].prefetch += tile.advance[sum];
        }
      }
    }
  }

  /// Sets up the tiles for column first_col of the block.
  void describe_block(Index block, Index first_col) {
    const Index full = rows_ / Blocking<S>::mr, remainder = rows_ % Blocking<S>::mr;
    const Index panel = Blocking<S>::mr * layout_.block_cols(block);
    const S* const begin = panels_ + layout_.offset(first_row_, block);
    const S *dy = packed_dy_, *ranks = packed_ranks_;
    for (Index k = 0; k < count_; ++k) {
      Tile& tile = tiles_[k];
      tile.count = 0;
      if (full > 0) {
        const S* const first = begin + (first_col - block) * Blocking<S>::mr;
        TileSum<S>& sum = tile.next(first, Blocking<S>::mr, 1, Blocking<S>::mr, Tiles::columns * Blocking<S>::mr);
        sum.vectors = dy;
        sum.vector_run = Blocking<S>::mr * tile.width();
        sum.runs = full;
        sum.scalar_run = sum.prefetch_run = panel;
        sum.prefetch = first + panel;
        sum.prefetch_step = Simd<S>::line;
      }
      if (remainder > 0) {
        const S* const last = begin + full * panel + (first_col - block) * remainder;
        tile.next(last, remainder, 1, remainder, Tiles::columns * remainder).vectors =
            dy + full * Blocking<S>::mr * tile.width();
      }
      if (ranks_ > 0) {
        const S* const factor = term_.left + first_rank_ * term_.left_stride + first_col;
        tile.next(factor, 1, term_.left_stride, ranks_, Tiles::columns).vectors = ranks;
      }
      dy += rows_ * tile.width();
      ranks += ranks_ * tile.width();
    }
  }

  /// A tile reads Tiles::columns elements of each column of V; at the edge, it reads them from a zero-padded copy.
  void copy_edge_of_factor(Index col, S* edge) {
    pack_padded(term_.left + first_rank_ * term_.left_stride + col, term_.left_stride, layout_.cols - col, ranks_,
                Index(Tiles::columns), edge);
    for (Index k = 0; k < count_; ++k) {
      TileSum<S>& sum = tiles_[k].sums[tiles_[k].count - 1];
      sum.scalars = edge;
      sum.scalar_step = Tiles::columns;
    }
  }

  const Layout& layout_;
  const S* panels_;
  Columns<S> dy_;
  MutableColumns<S> dx_;
  const LowRankTerm<S>& term_;
  Tile tiles_[Tiles::tiles];
  Index count_ = 0;
  Index width_ = 0, first_row_ = 0, rows_ = 0, first_rank_ = 0, ranks_ = 0;
  alignas(64) S packed_dy_[Blocking<S>::packed_dy];
  alignas(64) S packed_ranks_[max_ranks * max_samples];
};

/// dx = W0^T dy + V G, split among the threads of an executor if there is one.
template <class S>
void packed_transposed(const PanelLayout<S>& layout, const S* panels, const Columns<S>& dy, MutableColumns<S> dx,
                       const LowRankTerm<S>& term = {}, Executor* executor = nullptr) {
  eigen_assert(dy.rows() == layout.rows && dx.rows() == layout.cols && dy.cols() == dx.cols());
  using Product = PackedTransposed<S>;
  constexpr Index height = Blocking<S>::mr, max_samples = Product::max_samples;
  const Index min_cols = dy.cols() < 4 * max_samples ? 128 : 512;  // each part of the columns packs all of dy again
  const auto split = Split::choose<S>(product_size(layout.rows, layout.cols, dy.cols()),
                                      split_threshold(1e6, 512, term.rank * layout.cols), layout.cols, min_cols,
                                      dy.cols(), max_samples);
  for_each_part(executor, split, layout.cols, multiples_of(height, layout.cols), dy.cols(),
                multiples_of(max_samples, dy.cols()), [&](Interval cols, Interval samples) {
                  Product::run(layout, panels, columns_in(dy, samples), columns_in(dx, samples),
                               term.from(samples.first), cols);
                });
}

}  // namespace lora::inline LORA_ABI::detail
