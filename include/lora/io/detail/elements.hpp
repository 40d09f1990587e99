#pragma once
/// Conversion between the bytes of a tensor (row-major, little-endian, unaligned) and matrices of any strides.

#include "lora/core/scalar.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/transpose.hpp"
#include "lora/io/dtype.hpp"
#include "lora/io/half.hpp"

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace lora::inline LORA_ABI::detail {

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

/// Whether elements of S have the same bytes in memory as in a file of this dtype.
template <class S>
constexpr bool stored_as_is(Dtype dtype) {
  return dtype == dtype_of<S>() && (std::endian::native == std::endian::little || sizeof(S) == 1);
}

/// to[row * row_step + col * col_step] = element (row, col) of a row-major tensor. Returns false if S cannot hold
/// dtype.
template <class S>
bool load_elements(const std::byte* from, Dtype dtype, Index rows, Index cols, S* to, Index row_step, Index col_step) {
  if (rows == 0 || cols == 0) return with_dtype<S>(dtype, []<Dtype> {});  // no loop over the other one
  if (stored_as_is<S>(dtype) && (cols == 1 || col_step == 1) && (rows == 1 || row_step == cols)) {
    if (rows * cols > 0) std::memcpy(to, from, static_cast<std::size_t>(rows * cols) * sizeof(S));
    return true;
  }
  return with_dtype<S>(dtype, [&]<Dtype Stored> {
    using Format = Element<S, Stored>;
    const auto load = [&](Index row, Index col) {
      return Format::load(from + static_cast<std::size_t>(row * cols + col) * Format::size);
    };
    if (row_step == 1 && cols > 1) {
      return in_tiles(rows, cols, false, [&](Index top, Index left, Index height, Index width) {
        alignas(64) S tile[tile_side * tile_side];
        for (Index row = 0; row < height; ++row) {
          for (Index col = 0; col < width; ++col) tile[row * tile_side + col] = load(top + row, left + col);
        }
        transpose(tile, tile_side, to + top + left * col_step, col_step, height, width);
      });
    }
    for (Index row = 0; row < rows; ++row) {
      for (Index col = 0; col < cols; ++col) to[row * row_step + col * col_step] = load(row, col);
    }
  });
}

/// The reverse: writes the bytes of the row-major (rows, cols) tensor whose element (row, col) is from[row * row_step +
/// col * col_step].
template <class S>
bool store_elements(const S* from, Index row_step, Index col_step, Index rows, Index cols, Dtype dtype, std::byte* to) {
  if (rows == 0 || cols == 0) return with_dtype<S>(dtype, []<Dtype> {});
  return with_dtype<S>(dtype, [&]<Dtype Stored> {
    using Format = Element<S, Stored>;
    const auto store = [&](S number, Index row, Index col) {
      Format::store(number, to + static_cast<std::size_t>(row * cols + col) * Format::size);
    };
    if (row_step == 1 && cols > 1) {
      return in_tiles(rows, cols, true, [&](Index top, Index left, Index height, Index width) {
        alignas(64) S tile[tile_side * tile_side];
        transpose(from + top + left * col_step, col_step, tile, tile_side, width, height);
        for (Index row = 0; row < height; ++row) {
          for (Index col = 0; col < width; ++col) store(tile[row * tile_side + col], top + row, left + col);
        }
      });
    }
    for (Index row = 0; row < rows; ++row) {
      for (Index col = 0; col < cols; ++col) store(from[row * row_step + col * col_step], row, col);
    }
  });
}

LORA_IO_INSTANCE(bool load_elements(const std::byte*, Dtype, Index, Index, float*, Index, Index))
LORA_IO_DOUBLE_INSTANCE(bool load_elements(const std::byte*, Dtype, Index, Index, double*, Index, Index))
LORA_IO_INSTANCE(bool store_elements(const float*, Index, Index, Index, Index, Dtype, std::byte*))
LORA_IO_DOUBLE_INSTANCE(bool store_elements(const double*, Index, Index, Index, Index, Dtype, std::byte*))

}  // namespace lora::inline LORA_ABI::detail
