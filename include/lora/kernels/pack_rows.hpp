#pragma once
/// Packs a few columns: by rows, so that one load reads a row, or padded with zeros to whole packets.
///
///   from, columns:   a0 a1 a2 ...      to, rows of `width`:   a0 b0 c0 0 | a1 b1 c1 0 | ...
///                    b0 b1 b2 ...
///                    c0 c1 c2 ...      groups of two rows:    a0 a1 b0 b1 c0 c1 0 0 | a2 a3 b2 b3 c2 c3 0 0 | ...

#include "lora/kernels/packet.hpp"

#include <algorithm>

namespace lora::inline LORA_ABI::detail {

/// to[row / rows_in_group][sample][row % rows_in_group] = from(row, sample), or zero for samples, ..., width - 1.
template <class S>
void pack_rows(const S* from, Index from_stride, Index rows, Index samples, Index width, int rows_in_group, S* to) {
  if (rows_in_group > 1) {
    for (Index row = 0; row < rows; row += rows_in_group) {
      for (Index sample = 0; sample < width; ++sample, to += rows_in_group) {
        if (sample < samples) {
          std::copy_n(from + sample * from_stride + row, rows_in_group, to);
        } else {
          std::fill_n(to, rows_in_group, S(0));
        }
      }
    }
    return;
  }
  using Narrow = NarrowSimd<S, 8>;
  constexpr int q = Narrow::lanes;
  for (Index sample = 0; sample < width; sample += q) {
    Index row = 0;
    if (sample + q <= samples) {
      for (; row + q <= rows; row += q) {
        Narrow::store(to + row * width + sample, width,
                      Narrow::transposed(Narrow::load(from + sample * from_stride + row, from_stride)));
      }
    }
    for (; row < rows; ++row) {
      for (Index s = sample; s < sample + q; ++s) {
        to[row * width + s] = s < samples ? from[s * from_stride + row] : S(0);
      }
    }
  }
}

/// Copies `columns` columns of `rows` rows, each padded with zeros to `padded_rows`: for the edge of a matrix, where
/// packets would read beyond it.
template <class S>
void pack_padded(const S* from, Index from_stride, Index rows, Index columns, Index padded_rows, S* to) {
  for (Index column = 0; column < columns; ++column, from += from_stride, to += padded_rows) {
    std::fill_n(std::copy_n(from, rows, to), padded_rows - rows, S(0));
  }
}

}  // namespace lora::inline LORA_ABI::detail
