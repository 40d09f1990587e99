#pragma once
/// The offsets of byte-level tokens without the spaces that belong to them.

#include "lora/text/detail/byte_letters.hpp"
#include "lora/text/detail/piece.hpp"
#include "lora/text/detail/unicode.hpp"
#include "lora/text/detail/utf8.hpp"

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lora::inline LORA_ABI::detail {

/// Source: process_offsets of Hugging Face's tokenizers, with all that it does to added tokens and to a space that is
/// in no text.
struct OffsetTrim {
  bool on = false;
  bool prefix_space = false;  // the first space of a text is taken for one that is not there

  /// `token` is how the vocabulary writes the piece; `first`: it is the first of its text.
  void apply(std::string_view text, std::string_view token, bool first, Piece& piece) const {
    if (piece.added) token = text.substr(piece.begin, piece.end - piece.begin);
    std::size_t leading = spaces_at_begin(token, piece.added), trailing = spaces_at_end(token, piece.added);
    if (prefix_space && leading == 1 && (first || piece.begin == 0)) leading = 0;
    for (; leading > 0 && piece.begin < piece.end; --leading) piece.begin += utf8_length(byte_at(text, piece.begin));
    for (; trailing > 0 && piece.end > piece.begin; --trailing) piece.end = code_point_before(text, piece.end);
  }

 private:
  /// No other letter of a byte is white space; an added token may have some.
  static bool is_space(std::string_view text, std::size_t at, bool added) {
    const std::uint32_t code = code_point(text, at);
    return code == letter_of_space || (added && (unicode::properties(code) & unicode::space) != 0);
  }
  static std::size_t spaces_at_begin(std::string_view text, bool added) {
    std::size_t count = 0;
    for (std::size_t at = 0; at < text.size() && is_space(text, at, added); ++count) {
      at += utf8_length(byte_at(text, at));
    }
    return count;
  }
  static std::size_t spaces_at_end(std::string_view text, bool added) {
    std::size_t count = 0;
    for (std::size_t end = text.size(); end > 0 && is_space(text, code_point_before(text, end), added); ++count) {
      end = code_point_before(text, end);
    }
    return count;
  }
};

}  // namespace lora::inline LORA_ABI::detail
