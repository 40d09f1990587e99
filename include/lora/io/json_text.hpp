#pragma once
/// Strings as JSON, byte for byte as serde_json and Python's json (with ensure_ascii=False) write them.

#include "lora/abi.hpp"

#include <cstddef>
#include <string>
#include <string_view>

namespace lora::inline LORA_ABI {

/// Whether the bytes are UTF-8: no overlong forms, no surrogates (U+D800 to U+DFFF), nothing above U+10FFFF.
/// Source: The Unicode Standard 15, table 3-7.
constexpr bool is_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned char first = byte(i++);
    if (first < 0x80) continue;
    const std::size_t following = first < 0xc2 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : 0;
    if (following == 0 || text.size() - i < following) return false;
    const unsigned char second = byte(i);
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
        (first == 0xf4 && second > 0x8f)) {
      return false;
    }
    for (const std::size_t end = i + following; i < end; ++i) {
      if ((byte(i) & 0xc0) != 0x80) return false;
    }
  }
  return true;
}

/// Appends the text in quotes. Escaped are " and \, and control characters: \b \t \n \f \r, the others as \u00xx in
/// lower case. All else stands as it is.
inline void append_json_string(std::string& json, std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  json += '"';
  for (const char letter : text) {
    const auto code = static_cast<unsigned char>(letter);
    if (code >= 0x20) {
      if (letter == '"' || letter == '\\') json += '\\';
      json += letter;
      continue;
    }
    json += '\\';
    switch (letter) {
      case '\b': json += 'b'; break;
      case '\t': json += 't'; break;
      case '\n': json += 'n'; break;
      case '\f': json += 'f'; break;
      case '\r': json += 'r'; break;
      default:
        json += "u00";
        json += digits[code >> 4];
        json += digits[code & 15];
    }
  }
  json += '"';
}

static_assert(is_utf8("\xf4\x8f\xbf\xbf") && !is_utf8("\xf4\x90\x80\x80") && !is_utf8("\xc0\x80"));

}  // namespace lora::inline LORA_ABI
