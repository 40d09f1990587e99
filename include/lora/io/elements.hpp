#pragma once
/// Between the bytes of a tensor (row-major, little-endian, aligned to nothing) and matrices of any strides.

#include "lora/core/scalar.hpp"
#include "lora/io/dtype.hpp"
#include "lora/io/half.hpp"

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace lora::detail {

/// Reads and writes S = float or double as one of the formats F64, F32, F16, BF16; other S only as themselves.
template <class S, Dtype Stored>
struct Element {
  static constexpr std::size_t size = bits(Stored) / 8;
  using Bits = std::conditional_t<
      size == 8, std::uint64_t,
      std::conditional_t<size == 4, std::uint32_t, std::conditional_t<size == 2, std::uint16_t, std::uint8_t>>>;

  static S load(const std::byte* from) {
    Bits value;
    std::memcpy(&value, from, size);
    if constexpr (std::endian::native != std::endian::little) value = reversed(value);
    if constexpr (std::integral<S>) {
      return static_cast<S>(value);
    } else if constexpr (Stored == Dtype::f64) {
      return static_cast<S>(std::bit_cast<double>(value));
    } else if constexpr (Stored == Dtype::f32) {
      return static_cast<S>(std::bit_cast<float>(value));
    } else if constexpr (Stored == Dtype::f16) {
      return static_cast<S>(half_to_float(value));
    } else {
      return static_cast<S>(bfloat16_to_float(value));
    }
  }

  static void store(S number, std::byte* to) {
    Bits value;
    if constexpr (std::integral<S>) {
      value = static_cast<Bits>(number);
    } else if constexpr (Stored == Dtype::f64) {
      value = std::bit_cast<Bits>(static_cast<double>(number));
    } else if constexpr (Stored == Dtype::f32) {
      value = std::bit_cast<Bits>(static_cast<float>(number));
    } else if constexpr (Stored == Dtype::f16) {
      value = std::same_as<S, double> ? double_to_half(number) : float_to_half(static_cast<float>(number));
    } else {
      value = std::same_as<S, double> ? double_to_bfloat16(number) : float_to_bfloat16(static_cast<float>(number));
    }
    if constexpr (std::endian::native != std::endian::little) value = reversed(value);
    std::memcpy(to, &value, size);
  }

  static Bits reversed(Bits value) {
    std::byte bytes[size];
    std::memcpy(bytes, &value, size);
    std::reverse(bytes, bytes + size);
    std::memcpy(&value, bytes, size);
    return value;
  }
};

/// Calls f(row, column) for all, in squares whose lines stay in the nearest cache on both sides, also when their
/// distance is a power of two; inside a square along the side that is written. (For 1024 x 1024, Eigen's assignment
/// between the two storage orders takes several times as long.)
template <class F>
void in_tiles(Index rows, Index cols, bool down_columns, F&& f) {
  constexpr Index tile = 8;
  for (Index top = 0; top < rows; top += tile) {
    const Index bottom = std::min(rows, top + tile);
    for (Index left = 0; left < cols; left += tile) {
      const Index right = std::min(cols, left + tile);
      if (down_columns) {
        for (Index col = left; col < right; ++col) {
          for (Index row = top; row < bottom; ++row) f(row, col);
        }
      } else {
        for (Index row = top; row < bottom; ++row) {
          for (Index col = left; col < right; ++col) f(row, col);
        }
      }
    }
  }
}

/// Calls f.template operator()<Stored>() for the dtype that S can be stored as; false if S cannot.
template <class S, class F>
bool with_dtype(Dtype dtype, F&& f) {
  if constexpr (std::floating_point<S>) {
    switch (dtype) {
      case Dtype::f64: return f.template operator()<Dtype::f64>(), true;
      case Dtype::f32: return f.template operator()<Dtype::f32>(), true;
      case Dtype::f16: return f.template operator()<Dtype::f16>(), true;
      case Dtype::bf16: return f.template operator()<Dtype::bf16>(), true;
      default: return false;
    }
  } else {
    return dtype == dtype_of<S>() && (f.template operator()<dtype_of<S>()>(), true);
  }
}

/// Whether the memory of S is already what a file holds.
template <class S>
constexpr bool stored_as_is(Dtype dtype) {
  return dtype == dtype_of<S>() && (std::endian::native == std::endian::little || sizeof(S) == 1);
}

/// to[row * row_step + col * col_step] = element (row, col) of a row-major tensor of this dtype. False if S cannot hold
/// it.
template <class S>
bool load_elements(const std::byte* from, Dtype dtype, Index rows, Index cols, S* to, Index row_step, Index col_step) {
  if (stored_as_is<S>(dtype) && (cols == 1 || col_step == 1) && (rows == 1 || row_step == cols)) {
    if (rows * cols > 0) std::memcpy(to, from, static_cast<std::size_t>(rows * cols) * sizeof(S));
    return true;
  }
  return with_dtype<S>(dtype, [&]<Dtype Stored> {
    using Format = Element<S, Stored>;
    in_tiles(rows, cols, row_step < col_step, [&](Index row, Index col) {
      to[row * row_step + col * col_step] =
          Format::load(from + static_cast<std::size_t>(row * cols + col) * Format::size);
    });
  });
}

/// The reverse: bytes of the row-major (rows, cols) tensor whose element (row, col) is from[row * row_step + col *
/// col_step].
template <class S>
bool store_elements(const S* from, Index row_step, Index col_step, Index rows, Index cols, Dtype dtype, std::byte* to) {
  return with_dtype<S>(dtype, [&]<Dtype Stored> {
    using Format = Element<S, Stored>;
    in_tiles(rows, cols, false, [&](Index row, Index col) {
      Format::store(from[row * row_step + col * col_step],
                    to + static_cast<std::size_t>(row * cols + col) * Format::size);
    });
  });
}

}  // namespace lora::detail
