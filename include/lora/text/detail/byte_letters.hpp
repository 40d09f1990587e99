#pragma once
/// A byte-level vocabulary writes each byte as one printable letter: itself, or one from U+0100 on. A space is U+0120.

#include "lora/text/detail/utf8.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lora::inline LORA_ABI::detail {

/// The letter of each byte. Source: GPT-2.
inline constexpr std::array<std::uint32_t, 256> byte_letters = [] {
  std::array<std::uint32_t, 256> letters{};
  std::uint32_t next = 0x100;
  for (std::uint32_t byte = 0; byte < letters.size(); ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    letters[byte] = printable ? byte : next++;
  }
  return letters;
}();
inline constexpr std::uint32_t letter_of_space = byte_letters[' '];

/// The byte of each letter, and -1 for what is none.
inline constexpr std::array<std::int16_t, 0x144> bytes_of_letters = [] {
  std::array<std::int16_t, 0x144> bytes{};
  bytes.fill(-1);
  for (std::size_t byte = 0; byte < byte_letters.size(); ++byte) {
    bytes[byte_letters[byte]] = static_cast<std::int16_t>(byte);
  }
  return bytes;
}();

/// Appends the bytes that the letters of a token stand for. If one of them is no such letter: nothing, and false.
inline bool append_bytes_of(std::string_view token, std::string& to) {
  const std::size_t before = to.size();
  for (std::size_t at = 0; at < token.size(); at += utf8_length(byte_at(token, at))) {
    const std::uint32_t letter = code_point(token, at);
    if (letter >= bytes_of_letters.size() || bytes_of_letters[letter] < 0) {
      to.resize(before);
      return false;
    }
    to.push_back(static_cast<char>(bytes_of_letters[letter]));
  }
  return true;
}

}  // namespace lora::inline LORA_ABI::detail
