#pragma once
/// How a packed weight lies in memory: the numbers of W0 in another order, none added and none left out.
///
///            width        width      rest
///         +-----------+-----------+-------+
///         | panel 0   | panel 2   | 4     |  height     A block is `width` columns, a panel `height` rows of a block.
///         +-----------+-----------+-------+             Panels follow each other down a block, then block after block;
///         | panel 1   | panel 3   | 5     |  rest       in a panel column follows column, each `height` numbers.
///         +-----------+-----------+-------+
///
/// y = W0 x reads a panel from end to end: a column of it is what fits into the registers of one tile. dx = W0^T dy
/// reads a few columns of one panel, then the same columns of the next: blocks keep those places near each other. Of a
/// few samples it reads panels from end to end as well.

#include "lora/kernels/packet.hpp"

#include <algorithm>
#include <limits>

namespace lora::detail {

/// Some of the rows or columns of a matrix: first, ..., last - 1, as far as it has them. The default is all of them.
struct Interval {
  Index first = 0;
  Index last = std::numeric_limits<Index>::max();
};

template <class S>
struct PanelLayout {
  /// Packets in a column of a panel.
  static constexpr int vectors = Simd<S>::registers >= 32 ? 2 : Simd<S>::tight ? 6 : 3;
  static constexpr Index height = Index(vectors) * Simd<S>::lanes;
  static constexpr Index width = 264;
  /// How many samples a tile of y takes: its sums, and the fewer of packets and scalars of a step, fill registers.
  static constexpr int tile_samples = Simd<S>::registers >= 32 ? 8 : Simd<S>::tight ? 2 : 4;
  /// How many columns of W0 a tile of dx takes.
  static constexpr int tile_columns = Simd<S>::registers >= 32 ? 8 : 4;
  /// Numbers behind the last one that a kernel may read, and ignores: columns beyond the end of a panel, rows beyond
  /// that of a column. It may ask for what lies farther, without reading it.
  static constexpr Index slack = 8 * height;

  Index rows = 0;
  Index cols = 0;

  /// Whether there is more of W0 than a second cache holds, as a rule.
  bool large() const { return rows * cols > Index(1 << 20) / Index(sizeof(S)); }

  Index panel_rows(Index first_row) const { return std::min(height, rows - first_row); }
  Index block_cols(Index first_col) const { return std::min(width, cols - first_col); }
  /// Where the panel with the rows first_row, ... and the columns first_col, ... begins.
  Index offset(Index first_row, Index first_col) const { return first_col * rows + first_row * block_cols(first_col); }
  /// Where the numbers of column `col` begin in the panel with the rows first_row, ...
  Index position(Index first_row, Index col) const {
    const Index first_col = col - col % width;
    return offset(first_row, first_col) + (col - first_col) * panel_rows(first_row);
  }

  /// f(position, row, col, count) for every column of every panel: `count` numbers of W0 from (row, col) downwards.
  void for_each_column(auto&& f) const {
    Index position = 0;
    for (Index first_col = 0; first_col < cols; first_col += width) {
      for (Index row = 0; row < rows; row += height) {
        const Index count = panel_rows(row);
        for (Index col = first_col; col < first_col + block_cols(first_col); ++col, position += count) {
          f(position, row, col, count);
        }
      }
    }
  }
};

}  // namespace lora::detail
