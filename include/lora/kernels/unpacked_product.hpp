#pragma once
/// y = W x with a matrix that is not packed, and the additions in the order of a packed one: the same bits.
///
/// A layer whose weight is trained uses it, so freezing the layer changes no bit. Several samples use the same tiles.
/// For a single sample a tile would read a few rows of every column, which are far apart in a large matrix: that case
/// walks down the columns instead.

#include "lora/kernels/packed_product.hpp"

namespace lora::inline LORA_ABI::detail {

/// y = W x of one sample, every row with the two accumulators that it has in single_sample.hpp.
template <class S>
class UnpackedSample {
  using Simd = detail::Simd<S>;
  using Packet = typename Simd::Packet;
  static constexpr Index lanes = Simd::lanes;
  static constexpr Index kc = Blocking<S>::kc;
  static constexpr Index max_rows = Blocking<S>::walked_rows;
  static constexpr int columns = 8;  ///< of W in a step of a walk

 public:
  static void run(const Columns<S>& W, const S* x, S* y) {
    const Index whole = W.rows() / lanes * lanes;
    if (W.outerStride() >= Blocking<S>::far_apart) {
      for (Index row = 0; row < whole; row += max_rows) walk(W, row, std::min(max_rows, whole - row), x, y);
    } else if (whole > 0) {
      const auto in_place = [&](Index row, Index first_col) -> SampleSum<S> {
        return {W.data() + row + first_col * W.outerStride(), Blocking<S>::mr, W.outerStride()};
      };
      sample_product<S>({W.rows(), W.cols()}, in_place, x, y, {}, {0, whole}, false);
    }
    if (whole < W.rows()) multiply_last(W, whole, x, y);
  }

 private:
  /// Columns so far apart that a few rows of each are slower to read than whole columns: the accumulators of up to
  /// max_rows rows lie in L1 instead of registers.
  static void walk(const Columns<S>& W, Index first_row, Index rows, const S* x, S* y) {
    alignas(64) S even[max_rows], odd[max_rows];
    for (Index first_col = 0; first_col < W.cols(); first_col += kc) {
      const Index depth = std::min(kc, W.cols() - first_col), pairs = depth / 2 * 2;
      const S* const block = W.data() + first_row + first_col * W.outerStride();
      std::fill_n(even, rows, S(0));
      std::fill_n(odd, rows, S(0));
      Index col = 0;
      const auto add = [&](auto some) {
        constexpr Index count = decltype(some)::size();
        for (; col + count <= pairs; col += count) {
          add_columns(block + col * W.outerStride(), W.outerStride(), rows, x + first_col + col, even, odd, some);
        }
      };
      add(counted<columns>);
      add(counted<2>);
      for (Index row = 0; row < rows; ++row) odd[row] += even[row];
      if (pairs < depth) {
        add_columns(block + pairs * W.outerStride(), 0, rows, x + first_col + pairs, odd, odd, counted<1>);
      }
      for (Index row = 0; row < rows; ++row) {
        S& to = y[first_row + row];
        to = first_col > 0 ? to + odd[row] : odd[row];
      }
    }
  }

  /// Adds to `even` the first column and every second one after it, each times its element of x, to `odd` the others.
  template <int... K>
  static void add_columns(const S* column, Index stride, Index rows, const S* x, S* even, S* odd,
                          std::integer_sequence<int, K...>) {
    const Packet scalar[] = {Simd::template broadcast<1>(x + K)...};
    for (Index row = 0; row < rows; row += lanes) {
      Packet sums[] = {Simd::load(even + row), Simd::load(odd + row)};
      ((sums[K % 2] = Simd::multiply_add(Simd::load(column + K * stride + row), scalar[K], sums[K % 2])), ...);
      if constexpr (sizeof...(K) > 1) Simd::store(odd + row, sums[1]);
      Simd::store(even + row, sums[0]);
    }
  }

  /// The rows from `first` on, fewer than a packet: the last lanes of one that ends with them, or of a padded copy.
  static void multiply_last(const Columns<S>& W, Index first, const S* x, S* y) {
    const bool in_place = first > 0;
    const Index rows = W.rows() - first, lane = in_place ? lanes - rows : 0;
    alignas(64) S copy[kc * lanes], tile[lanes];
    for (Index first_col = 0; first_col < W.cols(); first_col += kc) {
      const Index depth = std::min(kc, W.cols() - first_col);
      const S* from = W.data() + first - lane + first_col * W.outerStride();
      if (!in_place) pack_padded(from, W.outerStride(), rows, depth, lanes, copy);
      const SampleSum<S> sum = {in_place ? from : copy, 0, in_place ? W.outerStride() : lanes, x + first_col, depth};
      SampleTile<S, 1, 1>::run(&sum, 1, tile, lanes, false);
      for (Index row = 0; row < rows; ++row) {
        S& to = y[first + row];
        to = first_col > 0 ? to + tile[lane + row] : tile[lane + row];
      }
    }
  }
};

/// Copies a column of a whole panel.
template <class S, int... K>
EIGEN_ALWAYS_INLINE S* copy_column(const S* from, S* to, std::integer_sequence<int, K...>) {
  (Simd<S>::store(to + K * Simd<S>::lanes, Simd<S>::load(from + K * Simd<S>::lanes)), ...);
  return to + Blocking<S>::mr;
}

/// y = W x on this thread. If several tiles of samples read a panel, it is packed first: columns a power of two apart
/// evict each other. If W is larger than L2, the next rows of each column are prefetched, which the hardware prefetcher
/// does not do: up to the cache line in which they end; the line in which they begin is loaded already.
template <class S>
void unpacked_product_part(const Columns<S>& W, const Columns<S>& x, MutableColumns<S> y) {
  using Layout = PanelLayout<S>;
  if (x.cols() == 1) return UnpackedSample<S>::run(W, x.data(), y.data());
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
      end = height == Layout::mr ? copy_column(column, end, counted<Blocking<S>::mr_packets>)
                                 : std::copy_n(column, height, end);
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
