#pragma once
/// The pre-tokenizer of GPT-2: words with the space before them.

#include "lora/text/detail/unicode.hpp"
#include "lora/text/detail/utf8.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lora::inline LORA_ABI::detail {

/// The kinds of the code points that are one byte.
inline constexpr std::array<std::uint8_t, 128> ascii_kinds = [] {
  std::array<std::uint8_t, 128> table{};
  std::size_t run = 0;
  for (std::uint32_t code = 0; code < table.size(); ++code) {
    while (unicode::kinds[run + 1] >> unicode::kind_bits <= code) ++run;
    table[code] = static_cast<std::uint8_t>(unicode::kinds[run] & ((1u << unicode::kind_bits) - 1));
  }
  return table;
}();

inline std::uint32_t kind_at(std::string_view text, std::size_t at) {
  const unsigned byte = byte_at(text, at);
  return byte < 0x80 ? ascii_kinds[byte] : unicode::kind(code_point(text, at));
}

/// How many bytes of a text that begins with an apostrophe are an English ending: 's 't 're 've 'm 'll 'd, or 0.
inline std::size_t english_ending(std::string_view text) {
  if (text.size() < 2) return 0;
  const char first = text[1], second = text.size() > 2 ? text[2] : '\0';
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  return ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l') ? 3 : 0;
}

/// Calls word(first, last, after_prefix) for each word between two places of a text that is UTF-8: all of its bytes, in
/// their order. With a prefix a space is thought in front of the first place, unless one is there; the first word is
/// told so, and may have no bytes else. Source: GPT-2's pattern, whose order of alternatives this follows:
///
///     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
template <class F>
void for_each_byte_level_word(std::string_view text, std::size_t first, std::size_t last, bool prefix, F&& word) {
  bool after_prefix = prefix && first < last && text[first] != ' ';
  for (std::size_t begin = first, at = first; begin < last; begin = at) {
    const bool space = text[begin] == ' ';
    at = begin + (space ? 1 : 0);
    const std::uint32_t kind = at < last ? kind_at(text, at) : unicode::white;
    const auto skip = [&] { at += utf8_length(byte_at(text, at)); };
    if (kind != unicode::white) {
      const std::size_t ending =
          text[at] == '\'' && !space && !after_prefix ? english_ending(text.substr(at, last - at)) : 0;
      at += ending;
      while (ending == 0 && at < last && kind_at(text, at) == kind) skip();
    } else {
      // All white space, but in front of a word the last is left to it; unless that is the only one.
      std::size_t last_one = at = begin;
      for (; at < last && kind_at(text, at) == unicode::white; skip()) last_one = at;
      if (at < last && (last_one > begin || after_prefix)) at = last_one;
    }
    word(begin, at, after_prefix);
    after_prefix = false;
  }
}

}  // namespace lora::inline LORA_ABI::detail
