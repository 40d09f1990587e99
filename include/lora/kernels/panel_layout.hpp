#pragma once
/// How a packed weight lies in memory: the elements of W0 in another order, none added and none left out.
///
///              KC          KC     remainder
///         +-----------+-----------+-------+
///         | panel 0   | panel 2   | 4     |  MR          A block is KC columns, a panel MR rows of a block. Panels
///         +-----------+-----------+-------+              follow each other down a block, then block after block; in a
///         | panel 1   | panel 3   | 5     |  remainder   panel column follows column, each MR elements.
///         +-----------+-----------+-------+
///
/// y = W0 x reads a panel from end to end: a column of it is what fits into the registers of one tile. dx = W0^T dy
/// reads a few columns of one panel, then the same columns of the next: blocks keep those places near each other. For
/// few samples it streams panels from end to end as well.

#include "lora/kernels/blocking.hpp"

#include <algorithm>
#include <limits>

namespace lora::inline LORA_ABI::detail {

/// Some of the rows or columns of a matrix: first, ..., last - 1, as far as it has them. The default is all of them.
struct Interval {
  Index first = 0;
  Index last = std::numeric_limits<Index>::max();
};

template <class S>
struct PanelLayout {
  static constexpr Index mr = Blocking<S>::mr;
  static constexpr Index kc = Blocking<S>::kc;
  /// Elements behind the last one that a kernel may read, and ignores: columns beyond the end of a panel, rows beyond
  /// that of a column. It may prefetch what lies farther.
  static constexpr Index slack = 8 * mr;

  Index rows = 0;
  Index cols = 0;

  /// Whether W0 is larger than L2, as a rule.
  bool large() const { return rows * cols > Blocking<S>::large; }

  Index panel_rows(Index first_row) const { return std::min(mr, rows - first_row); }
  Index block_cols(Index first_col) const { return std::min(kc, cols - first_col); }
  /// Where the panel with the rows first_row, ... and the columns first_col, ... begins.
  Index offset(Index first_row, Index first_col) const { return first_col * rows + first_row * block_cols(first_col); }
  /// Where the elements of column `col` begin in the panel with the rows first_row, ...
  Index position(Index first_row, Index col) const {
    const Index first_col = col - col % kc;
    return offset(first_row, first_col) + (col - first_col) * panel_rows(first_row);
  }

  /// f(position, row, col, count) for every column of every panel: `count` elements of W0 from (row, col) downwards.
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
