#pragma once
/// y = W x with a matrix that is not packed, and the additions in the order of a packed one: the same bits.
///
/// A layer whose weight is trained uses it, so freezing the layer changes no bit. Several samples use the same tiles.
/// For a single sample a tile would read a few rows of every column, which are far apart in a large matrix: that case
/// walks down the columns instead.

#include "lora/kernels/packed_product.hpp"

namespace lora::inline LORA_ABI::detail {

/// One sample: the accumulators of the tile that a packed weight would use lie in L1, not in registers.
template <class S>
class UnpackedSample {
  using Tiles = ProductTiles<S>;
  using Simd = detail::Simd<S>;
  static constexpr Index lanes = Simd::lanes;
  static constexpr Index max_rows = Blocking<S>::walked_rows;

 public:
  /// Whether columns are so far apart that reading a few rows of each is slower than reading whole columns.
  static bool pays(const Columns<S>& W) { return W.outerStride() > Blocking<S>::far_apart; }

  static void run(const Columns<S>& W, const S* x, S* y) {
    const Index last = W.rows() / Blocking<S>::mr * Blocking<S>::mr;
    for (Index row = 0; row < last; row += max_rows) {
      walk<Blocking<S>::mr_packets>(W, row, std::min(max_rows, last - row), x, y);
    }
    if (last < W.rows()) walk_last(W, last, x, y, counted<Tiles::heights>);
  }

 private:
  template <int... K>
  static void walk_last(const Columns<S>& W, Index row, const S* x, S* y, std::integer_sequence<int, K...>) {
    const Index rows = W.rows() - row, vectors = Tiles::packets(rows);
    ((vectors == Tiles::height(K) ? walk<Tiles::height(K)>(W, row, rows, x, y) : void()), ...);
  }

  /// Rows of W that a packed weight would multiply in tiles of `Vectors` packets.
  template <int Vectors>
  static void walk(const Columns<S>& W, Index first_row, Index rows, const S* x, S* y) {
    constexpr int accumulators = TileKernel<S, 1, Vectors, 1, PrefetchPolicy::none>::accumulators;
    alignas(64) S sums[accumulators * max_rows];
    S* const main = sums + (accumulators - 1) * max_rows;
    for (Index first_col = 0; first_col < W.cols(); first_col += Blocking<S>::kc) {
      const Index depth = std::min(Blocking<S>::kc, W.cols() - first_col), whole = depth / accumulators * accumulators;
      const S* const block = W.data() + first_row + first_col * W.outerStride();
      const Index packets = (rows + lanes - 1) / lanes;
      for (int chain = 0; chain < accumulators; ++chain) std::fill_n(sums + chain * max_rows, packets * lanes, S(0));
      for (Index col = 0; col < whole; col += accumulators) {
        add_columns(block + col * W.outerStride(), W.outerStride(), rows, x + first_col + col, sums,
                    counted<accumulators>);
      }
      for (int chain = 0; chain + 1 < accumulators; ++chain) {
        for (Index row = 0; row < rows; ++row) main[row] += sums[chain * max_rows + row];
      }
      for (Index col = whole; col < depth; ++col) {
        add_columns(block + col * W.outerStride(), 0, rows, x + first_col + col, main, counted<1>);
      }
      for (Index row = 0; row < rows; ++row) {
        S& to = y[first_row + row];
        to = first_col > 0 ? to + main[row] : main[row];
      }
    }
  }

  /// Adds each column times its element of x to its own accumulator.
  template <int... K>
  static void add_columns(const S* column, Index stride, Index rows, const S* x, S* sums,
                          std::integer_sequence<int, K...>) {
    Index row = 0;
    for (; row + lanes <= rows; row += lanes) (add(column + K * stride + row, x[K], sums + K * max_rows + row), ...);
    if (row == rows) return;
    alignas(64) S part[sizeof...(K) * lanes] = {};
    (std::copy_n(column + K * stride + row, rows - row, part + K * lanes), ...);
    (add(part + K * lanes, x[K], sums + K * max_rows + row), ...);
  }

  EIGEN_ALWAYS_INLINE static void add(const S* column, const S& x, S* sum) {
    Simd::store(sum, Simd::multiply_add(Simd::load(column), Simd::template broadcast<1>(&x), Simd::load(sum)));
  }
};

/// y = W x on this thread. If several tiles of samples read a panel, it is packed first: columns a power of two apart
/// evict each other. If W is larger than L2, the next rows of each column are prefetched, which the hardware prefetcher
/// does not do: up to the cache line in which they end; the line in which they begin is loaded already.
template <class S>
void unpacked_product_part(const Columns<S>& W, const Columns<S>& x, MutableColumns<S> y) {
  using Layout = PanelLayout<S>;
  if (x.cols() == 1 && UnpackedSample<S>::pays(W)) return UnpackedSample<S>::run(W, x.data(), y.data());
  const Layout layout{W.rows(), W.cols()};
  const bool large = layout.large();
  constexpr Index beyond = 2 * Simd<S>::lanes;  // elements that a tile may read
  alignas(64) S copy[Blocking<S>::kc * Blocking<S>::mr + beyond];
  const auto panel_at = [&](Index row, Index first_col) -> Panel<S> {
    const Index height = layout.panel_rows(row), width = layout.block_cols(first_col);
    const Index next = height + Simd<S>::line - 1;
    const S* const from = W.data() + row + first_col * W.outerStride();
    const bool once = x.cols() <= ProductTiles<S>::columns;
    if (once && height == ProductTiles<S>::packets(height) * Simd<S>::lanes)
      return {from, W.outerStride(), large ? from + next : nullptr};
    S* end = copy;
    for (Index col = 0; col < width; ++col) {
      const S* const column = from + col * W.outerStride();
      for (Index k = 0; large && k < height; k += Simd<S>::line) Simd<S>::template prefetch<2>(column + next + k);
      end = std::copy_n(column, height, end);
    }
    std::fill_n(end, beyond, S(0));
    return {copy, height, nullptr};
  };
  panel_product<S>(layout, panel_at, x, y, {}, {});
}

/// y = W x, split among the threads of an executor if there is one.
template <class S>
void unpacked_product(const Columns<S>& W, const Columns<S>& x, MutableColumns<S> y, Executor* executor = nullptr) {
  eigen_assert(x.rows() == W.cols() && y.rows() == W.rows() && x.cols() == y.cols());
  constexpr Index height = Blocking<S>::mr;
  const auto split =
      Split::choose<S>(product_size(W.rows(), W.cols(), x.cols()), 1e6, W.rows(), height, x.cols(), Blocking<S>::nc);
  const auto tiles = [&](Index sample) { return ProductTiles<S>::boundary(x.cols(), sample); };
  for_each_part(executor, split, W.rows(), multiples_of(height, W.rows()), x.cols(), tiles,
                [&](Interval rows, Interval samples) {
                  MutableColumns<S> some_y = columns_in(y, samples);
                  unpacked_product_part<S>(rows_in(W, rows), columns_in(x, samples), rows_in(some_y, rows));
                });
}

}  // namespace lora::inline LORA_ABI::detail
