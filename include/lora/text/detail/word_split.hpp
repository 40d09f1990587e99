#pragma once
/// The pre-tokenizer of BERT: words between spaces, and each mark of punctuation a word of its own.

#include "lora/text/detail/unicode.hpp"
#include "lora/text/detail/utf8.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lora::inline LORA_ABI::detail {

/// The properties of the code points that are one byte.
inline constexpr std::array<std::uint8_t, 128> ascii_properties = [] {
  std::array<std::uint8_t, 128> table{};
  std::size_t run = 0;
  for (std::uint32_t code = 0; code < table.size(); ++code) {
    while (unicode::runs[run + 1] >> unicode::first_shift <= code) ++run;
    table[code] = static_cast<std::uint8_t>(unicode::runs[run] & ((1u << unicode::order_shift) - 1));
  }
  return table;
}();

/// Calls word(first, last, code points) for each word between two places of a text that is UTF-8.
template <class F>
void for_each_word(std::string_view text, std::size_t first, std::size_t last, F&& word) {
  std::size_t begin = first, count = 0;
  const auto end_word = [&](std::size_t at) {
    if (count > 0) word(begin, at, count);
    count = 0;
  };
  for (std::size_t at = first; at < last;) {
    const unsigned byte = byte_at(text, at);
    const std::size_t next = at + utf8_length(byte);
    const std::uint32_t properties = byte < 0x80 ? ascii_properties[byte] : unicode::properties(code_point(text, at));
    if ((properties & (unicode::space | unicode::punctuation)) == 0) {
      ++count;
    } else {
      end_word(at);
      if ((properties & unicode::punctuation) != 0) word(at, next, 1);
      begin = next;
    }
    at = next;
  }
  end_word(last);
}

}  // namespace lora::inline LORA_ABI::detail
