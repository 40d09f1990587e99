#pragma once
/// The dtypes of safetensors.
///
/// Their order is the reference implementation's: from narrow to wide, which is also the reverse of the order in which
/// a file stores its tensors (the widest first, so that each starts aligned to its own size).
/// Source: huggingface/safetensors, safetensors/src/tensor.rs, enum Dtype.

#include "lora/abi.hpp"

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

namespace lora::inline LORA_ABI {

enum class Dtype : std::uint8_t {
  boolean,  // one byte, 0 or 1
  f4,       // two to a byte
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,  // two f32
  f64,
  i64,
  u64,
};

inline constexpr std::size_t dtype_count = 22;

namespace detail {

struct DtypeFacts {
  std::string_view name;
  unsigned bits;
};
inline constexpr std::array<DtypeFacts, dtype_count> dtype_facts{{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

}  // namespace detail

/// The name in a header: "F32".
constexpr std::string_view name(Dtype dtype) { return detail::dtype_facts[static_cast<std::size_t>(dtype)].name; }

/// Bits of one element: 4, 6, 8, 16, 32 or 64.
constexpr unsigned bits(Dtype dtype) { return detail::dtype_facts[static_cast<std::size_t>(dtype)].bits; }

constexpr std::optional<Dtype> find_dtype(std::string_view name) {
  for (std::size_t i = 0; i < dtype_count; ++i) {
    if (detail::dtype_facts[i].name == name) return static_cast<Dtype>(i);
  }
  return std::nullopt;
}

/// F64, F32, F16 and BF16, which `read` converts to float or double.
constexpr bool is_real(Dtype dtype) {
  return dtype == Dtype::f64 || dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16;
}

namespace detail {

/// Those of is_real, for messages.
inline constexpr std::string_view real_dtypes = "F64, F32, F16 or BF16";

/// The smallest number that a format rounds to infinity, to nearest even; infinity itself if it holds every double.
constexpr double smallest_infinite(Dtype dtype) {
  switch (dtype) {
    case Dtype::f16: return 0x1.ffep15;  // 65520
    case Dtype::bf16: return 0x1.ffp127;
    case Dtype::f32: return 0x1.ffffffp127;
    default: return std::numeric_limits<double>::infinity();
  }
}

}  // namespace detail

/// The product of the dimensions times the bits of an element; nothing if either exceeds 2^64 - 1. `{}` is one element.
constexpr std::optional<std::uint64_t> bit_count(Dtype dtype, std::span<const std::uint64_t> shape) {
  std::uint64_t product = 1;
  const auto multiply = [&](std::uint64_t factor) {
    if (factor != 0 && product > UINT64_MAX / factor) return false;
    product *= factor;
    return true;
  };
  for (const std::uint64_t dimension : shape) {
    if (!multiply(dimension)) return std::nullopt;
  }
  return multiply(bits(dtype)) ? std::optional(product) : std::nullopt;
}

/// The C++ scalars that a tensor can hold without conversion.
template <class S>
concept StoredScalar =
    std::same_as<S, float> || std::same_as<S, double> || (std::integral<S> && !std::same_as<S, bool> && sizeof(S) <= 8);

/// float: F32, double: F64, integers by their size and sign.
template <StoredScalar S>
constexpr Dtype dtype_of() {
  if constexpr (std::same_as<S, float>) {
    return Dtype::f32;
  } else if constexpr (std::same_as<S, double>) {
    return Dtype::f64;
  } else if constexpr (std::is_signed_v<S>) {
    return sizeof(S) == 1 ? Dtype::i8 : sizeof(S) == 2 ? Dtype::i16 : sizeof(S) == 4 ? Dtype::i32 : Dtype::i64;
  } else {
    return sizeof(S) == 1 ? Dtype::u8 : sizeof(S) == 2 ? Dtype::u16 : sizeof(S) == 4 ? Dtype::u32 : Dtype::u64;
  }
}

static_assert(name(Dtype::u64) == "U64" && bits(Dtype::c64) == 64 && find_dtype("F8_E8M0") == Dtype::f8_e8m0);

}  // namespace lora::inline LORA_ABI
