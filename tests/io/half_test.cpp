#include "lora/io/half.hpp"

#include "support/catch.hpp"

#include <cmath>
#include <limits>
#include <random>

namespace {

// The definition in numbers rather than bits: a format with this many fraction bits and this smallest normal exponent.
struct Format {
  int fraction_bits, smallest_exponent, largest_exponent;
};
constexpr Format half{10, -14, 15}, bfloat16{7, -126, 127};

double value_of(Format format, std::uint16_t bits) {
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  const int exponent = (bits & 0x7fff) >> format.fraction_bits;
  const int step = std::max(exponent, 1) - 1 + format.smallest_exponent - format.fraction_bits;
  const int significand = fraction + (exponent > 0 ? 1 << format.fraction_bits : 0);
  double value = std::ldexp(significand, step);
  if (exponent - 1 + format.smallest_exponent > format.largest_exponent) {
    value = fraction == 0 ? HUGE_VAL : std::numeric_limits<double>::quiet_NaN();
  }
  return bits & 0x8000 ? -value : value;
}

// Nearest, ties to even, by the processor's own rounding of an integer.
double rounded(Format format, double number) {
  if (number == 0 || !std::isfinite(number)) return number;
  const int exponent = std::max(std::ilogb(number), format.smallest_exponent);
  const double result =
      std::ldexp(std::nearbyint(std::ldexp(number, format.fraction_bits - exponent)), exponent - format.fraction_bits);
  return std::abs(result) >= std::ldexp(1.0, format.largest_exponent + 1) ? std::copysign(HUGE_VAL, number) : result;
}

bool same(double a, double b) { return a == b && std::signbit(a) == std::signbit(b); }

long wrong = 0;
void check(double number) {
  const bool right = same(lora::half_to_float(lora::double_to_half(number)), rounded(half, number)) &&
                     same(lora::bfloat16_to_float(lora::double_to_bfloat16(number)), rounded(bfloat16, number));
  const auto single = static_cast<float>(number);
  const bool right_single = same(lora::half_to_float(lora::float_to_half(single)), rounded(half, single)) &&
                            same(lora::bfloat16_to_float(lora::float_to_bfloat16(single)), rounded(bfloat16, single));
  if (right && right_single) return;
  ++wrong;
  INFO("number " << number);
  CHECK(right);
  CHECK(right_single);
}

}  // namespace

TEST_CASE("All 65536 half numbers are what the format says, and survive the way to float and back") {
  long bad = 0;
  for (int i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    for (const bool is_half : {true, false}) {
      const double expected = value_of(is_half ? half : bfloat16, bits);
      const float given = is_half ? lora::half_to_float(bits) : lora::bfloat16_to_float(bits);
      const std::uint16_t back = is_half ? lora::float_to_half(given) : lora::float_to_bfloat16(given);
      if (std::isnan(expected)) {
        // A signalling NaN may be made quiet, by us and by the processor.
        const int quiet = is_half ? 0x200 : 0x40;
        if (!std::isnan(given) || std::signbit(given) != (bits >> 15 == 1) || (back | quiet) != (bits | quiet)) ++bad;
      } else if (!same(given, expected) || back != bits) {
        ++bad;
      }
    }
  }
  CHECK(bad == 0);
}

TEST_CASE("Numbers are rounded to nearest even: at, just below and just above every tie, from float and double") {
  wrong = 0;
  for (const auto& format : {half, bfloat16}) {
    const int finite = (format.largest_exponent - format.smallest_exponent + 2) << format.fraction_bits;
    for (int i = 0; i < finite; ++i) {
      const double here = value_of(format, static_cast<std::uint16_t>(i));
      const double next = i + 1 < finite ? value_of(format, static_cast<std::uint16_t>(i + 1))
                                         : std::ldexp(1.0, format.largest_exponent + 1);
      const double tie = (here + next) / 2;
      const auto single = static_cast<float>(tie);  // exact
      for (const double sign : {1.0, -1.0}) {
        for (const double number : {tie, std::nextafter(tie, 0.0), std::nextafter(tie, HUGE_VAL),
                                    static_cast<double>(std::nextafter(single, 0.0f)),
                                    static_cast<double>(std::nextafter(single, HUGE_VALF))}) {
          check(sign * number);
          if (wrong > 5) return;
        }
      }
    }
  }
}

TEST_CASE("Random bits are rounded as the definition says") {
  wrong = 0;
  std::mt19937_64 random(7);
  for (int i = 0; i < 300'000 && wrong < 5; ++i) {
    const auto bits = random();
    const auto single = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!std::isnan(single)) check(single);
    // A double between half's smallest and largest number, with all its fraction bits.
    const int exponent = static_cast<int>(bits % 44) - 26;
    check(std::ldexp(1.0 + static_cast<double>(bits >> 12) * 0x1p-52, exponent));
  }
}

TEST_CASE("A double is rounded once, not by way of float") {
  const double above_tie = 1.0 + 0x1p-11 + 0x1p-40;  // float drops the last bit and makes it a tie
  CHECK(lora::double_to_half(above_tie) == 0x3c01);
  CHECK(lora::float_to_half(static_cast<float>(above_tie)) == 0x3c00);
  CHECK(lora::double_to_bfloat16(1.0 + 0x1p-8 + 0x1p-40) == 0x3f81);
  CHECK(lora::double_to_half(1e300) == 0x7c00);
  CHECK(lora::double_to_bfloat16(-1e300) == 0xff80);
  CHECK(lora::double_to_half(-1e-300) == 0x8000);
  CHECK(std::isnan(lora::half_to_float(lora::double_to_half(std::nan("")))));
}

TEST_CASE("The known values of half") {
  CHECK(lora::half_to_float(0x3555) == 0.333251953125f);
  CHECK(lora::float_to_half(65504.0f) == 0x7bff);
  CHECK(lora::float_to_half(65519.996f) == 0x7bff);
  CHECK(lora::float_to_half(65520.0f) == 0x7c00);
  CHECK(lora::float_to_half(0x1p-24f) == 1);
  CHECK(lora::float_to_half(0x1p-25f) == 0);
  CHECK(lora::float_to_half(0x1.000002p-25f) == 1);
  CHECK(lora::float_to_half(-0.0f) == 0x8000);
  CHECK(lora::float_to_half(std::numeric_limits<float>::signaling_NaN()) >= 0x7e00);
  CHECK(lora::float_to_bfloat16(std::bit_cast<float>(0x7f800001u)) == 0x7fc0);
  CHECK(lora::float_to_bfloat16(std::numeric_limits<float>::max()) == 0x7f80);
}
