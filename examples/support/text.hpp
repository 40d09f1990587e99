#pragma once
/// Numbers as text, independent of the locale.

#include <array>
#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>

namespace examples {

/// `value` with `digits` (at most 64) digits after the point: fixed(3.14159, 2) = "3.14".
inline std::string fixed(double value, int digits) {
  std::string text(400, ' ');  // the largest double has 309 digits before the point
  text.resize(static_cast<std::size_t>(
      std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, digits).ptr -
      text.data()));
  return text;
}

/// `value` with at most `digits` significant digits: significant(0.0021, 6) = "0.0021", significant(1e-9, 6) = "1e-09".
inline std::string significant(double value, int digits) {
  std::array<char, 64> buffer;
  char* const last = buffer.data() + buffer.size();
  return std::string(buffer.data(), std::to_chars(buffer.data(), last, value, std::chars_format::general, digits).ptr);
}

/// Thousands separated: with_commas(1229581312) = "1,229,581,312".
inline std::string with_commas(long long value) {
  std::string text = std::to_string(value);
  const std::size_t first = value < 0 ? 1 : 0;
  for (std::size_t i = text.size(); i > first + 3;) text.insert(i -= 3, 1, ',');
  return text;
}

/// A fraction as a percentage: percent(0.9732) = "97.3 %".
inline std::string percent(double fraction, int digits = 1) { return fixed(100 * fraction, digits) + " %"; }

/// The number of characters of UTF-8 text, where its bytes are more.
inline std::size_t width_of(std::string_view text) {
  std::size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return width;
}

}  // namespace examples
