#pragma once
/// Transposes between the two storage orders: files are row-major, most matrices are not.
///
/// Element by element, a large matrix takes five times as long as its memcpy, because every element touches a cache
/// line that is evicted before its neighbor is needed. So it works tile by tile, with whole cache lines on both sides,
/// and transposes a tile in registers.

#include "lora/kernels/packet.hpp"

#include <algorithm>
#include <concepts>
#include <cstddef>

namespace lora::inline LORA_ABI::detail {

/// The side of a tile: one cache line of floats.
inline constexpr Index tile_side = 16;

/// Calls f(row, col, height, width) for all tiles, with smaller edge tiles: in blocks whose pages stay in the TLB,
/// along the rows or down the columns.
template <class F>
void in_tiles(Index rows, Index cols, bool down_columns, F&& f) {
  constexpr Index block = 256;
  for (Index top = 0; top < rows; top += block) {
    const Index bottom = std::min(rows, top + block);
    for (Index left = 0; left < cols; left += block) {
      const Index right = std::min(cols, left + block);
      const auto one = [&](Index row, Index col) {
        f(row, col, std::min(tile_side, bottom - row), std::min(tile_side, right - col));
      };
      if (down_columns) {
        for (Index col = left; col < right; col += tile_side) {
          for (Index row = top; row < bottom; row += tile_side) one(row, col);
        }
      } else {
        for (Index row = top; row < bottom; row += tile_side) {
          for (Index col = left; col < right; col += tile_side) one(row, col);
        }
      }
    }
  }
}

/// to[j * to_step + i] = from[i * from_step + j] for i < height, j < width.
template <class S>
void transpose_part(const S* from, Index from_step, S* to, Index to_step, Index height, Index width) {
  for (Index j = 0; j < width; ++j) {
    for (Index i = 0; i < height; ++i) to[j * to_step + i] = from[i * from_step + j];
  }
}

/// The same for a whole tile.
template <class S>
void transpose_tile(const S* from, Index from_step, S* to, Index to_step) {
  if constexpr (std::floating_point<S>) {
    using Simd = NarrowSimd<S, 4>;  // wider ones are no faster
    constexpr Index size = Simd::lanes;
    if constexpr (size > 1 && tile_side % size == 0) {
      for (Index j = 0; j < tile_side; j += size) {
        for (Index i = 0; i < tile_side; i += size) {
          Simd::store(to + j * to_step + i, to_step, Simd::transposed(Simd::load(from + i * from_step + j, from_step)));
        }
      }
      return;
    }
  }
  transpose_part(from, from_step, to, to_step, tile_side, tile_side);
}

template <class S>
void transpose(const S* from, Index from_step, S* to, Index to_step, Index height, Index width) {
  if (height == tile_side && width == tile_side) return transpose_tile(from, from_step, to, to_step);
  transpose_part(from, from_step, to, to_step, height, width);
}

}  // namespace lora::inline LORA_ABI::detail
