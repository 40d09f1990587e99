#pragma once
/// The memory layout of a packed weight: the elements of W0 in another order, without padding.
///
///              KC          KC     remainder
///         +-----------+-----------+-------+
///         | panel 0   | panel 2   | 4     |  MR          A block is KC columns, a panel MR rows of a block. Panels
///         +-----------+-----------+-------+              follow each other down a block, then block after block; in a
///         | panel 1   | panel 3   | 5     |  remainder   panel column follows column, each MR elements.
///         +-----------+-----------+-------+
///
/// y = W0 x reads a panel from end to end: a column of a panel is as high as a tile. dx = W0^T dy reads a few columns
/// of one panel, then the same columns of the next, which blocks keep close together. For few samples it streams panels
/// from end to end as well.

#include "lora/kernels/blocking.hpp"

#include <algorithm>
#include <limits>

namespace lora::inline LORA_ABI::detail {

/// A range of the rows or columns of a matrix: first, ..., last - 1, clipped to the matrix. The default is all of them.
struct Interval {
  Index first = 0;
  Index last = std::numeric_limits<Index>::max();
};

template <class S>
struct PanelLayout {
  static constexpr Index mr = Blocking<S>::mr;
  static constexpr Index kc = Blocking<S>::kc;
  /// How many elements after the last one a kernel may read, and ignores: columns beyond the end of a panel, rows
  /// beyond the end of a column. Prefetches may go farther.
  static constexpr Index slack = 8 * mr;

  Index rows = 0;
  Index cols = 0;

  /// Whether W0 is larger than a typical L2.
  bool large() const { return rows * cols > Blocking<S>::large; }

  Index panel_rows(Index first_row) const { return std::min(mr, rows - first_row); }
  Index block_cols(Index first_col) const { return std::min(kc, cols - first_col); }
  /// The offset of the panel that begins at (first_row, first_col).
  Index offset(Index first_row, Index first_col) const { return first_col * rows + first_row * block_cols(first_col); }
  /// The offset of column `col` in the panel that begins at row first_row.
  Index position(Index first_row, Index col) const {
    const Index first_col = col - col % kc;
    return offset(first_row, first_col) + (col - first_col) * panel_rows(first_row);
  }

  /// Calls f(position, row, col, count) for every column of every panel: `count` elements of W0 from (row, col) down.
  void for_each_column(auto&& f) const {
    Index position = 0;
    for (Index first_col = 0; first_col < cols; first_col += kc) {
      for (Index row = 0; row < rows; row += mr) {
        const Index count = panel_rows(row);
        for (Index col = first_col; col < first_col + block_cols(first_col); ++col, position += count) {
          f(position, row, col, count);
        }
      }
    }
  }
};

}  // namespace lora::inline LORA_ABI::detail
