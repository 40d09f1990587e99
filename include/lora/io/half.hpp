#pragma once
/// IEEE binary16 (F16) and bfloat16 (BF16): storage only, with conversions on bits.
///
///   F16    1 sign, 5 exponent (bias 15),  10 fraction bits: up to 65504, normal from 2^-14, subnormal steps of 2^-24
///   BF16   1 sign, 8 exponent (bias 127),  7 fraction bits: the upper half of a float
///
/// To float: exact. From float or double: rounded once, to nearest, ties to even; too large becomes infinity; a NaN
/// stays a NaN and keeps its upper bits, made quiet; zeros and infinities keep their sign.

#include "lora/abi.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace lora::inline LORA_ABI {

static_assert(std::numeric_limits<float>::is_iec559 && std::numeric_limits<double>::is_iec559);

constexpr float bfloat16_to_float(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

constexpr float half_to_float(std::uint16_t value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value & 0x8000u) << 16;
  const std::uint32_t exponent = (value >> 10) & 31u;
  const std::uint32_t fraction = value & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero and subnormals; exact
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112u) << 23 | fraction << 13);
}

constexpr std::uint16_t float_to_bfloat16(float number) {
  const auto value = std::bit_cast<std::uint32_t>(number);
  if ((value & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(value >> 16 | 0x40u);
  // Adds just under half of the last kept bit, or exactly half if that bit is odd; a carry runs into the exponent.
  return static_cast<std::uint16_t>((value + 0x7fffu + (value >> 16 & 1u)) >> 16);
}

constexpr std::uint16_t float_to_half(float number) {
  const auto value = std::bit_cast<std::uint32_t>(number);
  const std::uint32_t sign = value >> 16 & 0x8000u;
  const std::uint32_t magnitude = value & 0x7fffffffu;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520, halfway between 65504 and what would be 65536
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else if (magnitude > 0x33000000u) {  // 2^-25, half of the smallest subnormal, is a tie and goes to zero
    const std::uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
    const std::uint32_t shift = 126u - (magnitude >> 23);  // 14 ... 24
    half = fraction >> shift;
    const std::uint32_t rest = fraction & ((1u << shift) - 1u);
    const std::uint32_t tie = 1u << (shift - 1u);
    if (rest > tie || (rest == tie && (half & 1u))) ++half;
  }
  return static_cast<std::uint16_t>(sign | half);
}

namespace detail {

/// The float next to the number towards zero, its last bit set if anything was cut off. Rounding this to a format with
/// at least two bits less gives what rounding the double itself would (Boldo & Melquiond 2008, "round to odd").
inline float round_to_odd(double number) {
  if (std::isnan(number)) return static_cast<float>(number);
  float result = static_cast<float>(number);
  if (std::abs(static_cast<double>(result)) > std::abs(number)) result = std::nextafter(result, 0.0f);
  if (static_cast<double>(result) == number) return result;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(result) | 1u);
}

}  // namespace detail

inline std::uint16_t double_to_half(double number) { return float_to_half(detail::round_to_odd(number)); }
inline std::uint16_t double_to_bfloat16(double number) { return float_to_bfloat16(detail::round_to_odd(number)); }

static_assert(half_to_float(0x3555) == 0.333251953125f && float_to_half(1.0f / 3.0f) == 0x3555);

}  // namespace lora::inline LORA_ABI
