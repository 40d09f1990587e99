#pragma once
/// Text as code points: UTF-8 is checked once, and then read without further checks.

#include "lora/abi.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace lora::inline LORA_ABI::detail {

inline unsigned byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

/// How many bytes the code point has that begins with this byte.
inline std::size_t utf8_length(unsigned byte) { return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4; }

/// Where the text stops being UTF-8, or its size: no code point above 0x10ffff, no surrogate, none longer than it need
/// be.
inline std::size_t utf8_end(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const unsigned byte = byte_at(text, at);
    if (byte < 0x80) {
      ++at;
      continue;
    }
    const std::size_t length = utf8_length(byte);
    if (byte < 0xc2 || byte > 0xf4 || text.size() - at < length) return at;
    for (std::size_t k = 1; k < length; ++k) {
      if ((byte_at(text, at + k) & 0xc0) != 0x80) return at;
    }
    const unsigned second = byte_at(text, at + 1);
    if ((byte == 0xe0 && second < 0xa0) || (byte == 0xed && second > 0x9f) || (byte == 0xf0 && second < 0x90) ||
        (byte == 0xf4 && second > 0x8f)) {
      return at;
    }
    at += length;
  }
  return at;
}

/// Puts U+FFFD for each part of a text that is not UTF-8: the most bytes that some code point begins with, or one.
/// Source: the Unicode Standard, "U+FFFD Substitution of Maximal Subparts", as Rust does it.
inline void replace_what_is_not_utf8(std::string& text) {
  std::size_t end = utf8_end(text);
  if (end == text.size()) return;
  std::string fixed;
  std::string_view rest = text;
  for (; !rest.empty(); end = utf8_end(rest)) {
    fixed += rest.substr(0, end);
    rest.remove_prefix(end);
    if (rest.empty()) break;
    fixed += "\xef\xbf\xbd";
    // A part of two or three bytes is one that further bytes could complete.
    std::size_t part = 1;
    for (const std::size_t size : {std::size_t{3}, std::size_t{2}}) {
      if (size >= utf8_length(byte_at(rest, 0)) || size > rest.size()) continue;
      std::string completed(rest.substr(0, size));
      completed.resize(utf8_length(byte_at(rest, 0)), '\x80');
      if (utf8_end(completed) == 0) continue;
      part = size;
      break;
    }
    rest.remove_prefix(part);
  }
  text = std::move(fixed);
}

/// The code point that begins at a place of a text that is UTF-8.
inline std::uint32_t code_point(std::string_view text, std::size_t at) {
  const std::uint32_t byte = byte_at(text, at);
  const auto next = [&](std::size_t k) { return byte_at(text, at + k) & 0x3f; };
  if (byte < 0x80) return byte;
  if (byte < 0xe0) return (byte & 0x1f) << 6 | next(1);
  if (byte < 0xf0) return (byte & 0x0f) << 12 | next(1) << 6 | next(2);
  return (byte & 0x07) << 18 | next(1) << 12 | next(2) << 6 | next(3);
}

/// Where the code point begins that ends before `end`, which is not 0.
inline std::size_t code_point_before(std::string_view text, std::size_t end) {
  do --end;
  while ((byte_at(text, end) & 0xc0) == 0x80);
  return end;
}

/// Calls f with each byte of a code point.
template <class F>
void for_each_byte(std::uint32_t code, F&& f) {
  const auto byte = [&](std::uint32_t value) { f(static_cast<char>(value)); };
  if (code < 0x80) {
    byte(code);
    return;
  }
  if (code < 0x800) {
    byte(0xc0 | code >> 6);
  } else {
    if (code < 0x10000) {
      byte(0xe0 | code >> 12);
    } else {
      byte(0xf0 | code >> 18);
      byte(0x80 | (code >> 12 & 0x3f));
    }
    byte(0x80 | (code >> 6 & 0x3f));
  }
  byte(0x80 | (code & 0x3f));
}

}  // namespace lora::inline LORA_ABI::detail
