#pragma once
/// W0 + s U V in the order of the panels of W0: each panel is copied, and its columns are tiles of a product.

#include "lora/kernels/packed_product.hpp"

namespace lora::detail {

/// A matrix in memory whose rows are contiguous.
template <class S>
using Rows = Eigen::Ref<const RowMajorMatrix<S>, 0, Eigen::OuterStride<>>;

/// to = panels + s U V.   U (rows, rank), V (rank, cols); `to` has as many numbers as W0.
template <class S>
void merge_panels(const PanelLayout<S>& layout, const S* panels, const Columns<S>& U, const Rows<S>& V, S s, S* to) {
  using Layout = PanelLayout<S>;
  constexpr Index block = 32;
  alignas(64) S left[block * Layout::height];  // s U, with zeros below the last row
  TileSum<S> sum;
  sum.vectors = left;
  sum.vector_step = Layout::height;
  sum.scalar_stride = 1;
  sum.scalar_step = V.outerStride();
  for (Index col = 0; col < layout.cols; col += Layout::width) {
    const Index cols = layout.block_cols(col);
    for (Index row = 0; row < layout.rows; row += Layout::height) {
      const Index height = layout.panel_rows(row), vectors = ProductTiles<S>::packets(height);
      const Index position = layout.offset(row, col);
      S* const panel = to + position;
      std::copy_n(panels + position, height * cols, panel);
      for (Index first = 0; first < U.cols(); first += block) {
        sum.steps = std::min(block, U.cols() - first);
        for (Index r = 0; r < sum.steps; ++r) {
          S* const column = left + r * Layout::height;
          for (Index i = 0; i < Layout::height; ++i) column[i] = i < height ? s * U(row + i, first + r) : S(0);
        }
        ProductTiles<S>::for_each(cols, [&](Index t, Index count) {
          sum.scalars = V.data() + first * V.outerStride() + col + t;
          ProductTiles<S>::get(count, vectors)(&sum, 1, panel + t * height, height, height, true);
        });
      }
    }
  }
}

}  // namespace lora::detail
