#pragma once
/// Tokens that are found in a text before it is split into words, such as "[MASK]".

#include "lora/text/detail/byte_trie.hpp"
#include "lora/text/detail/unicode.hpp"
#include "lora/text/detail/utf8.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI::detail {

struct AddedToken {
  std::string content;
  int id = 0;
  bool single_word = false;  // not beside a letter
  bool lstrip = false;       // takes the spaces before it
  bool rstrip = false;       // takes the spaces after it
  bool normalized = false;   // found in the normalized text, not in the original
  bool special = false;      // may be left out by decode
};

struct AddedTokens {
  std::vector<AddedToken> tokens;
  ByteTrie in_original, in_normalized;  // content, or normalized content, to the index of a token
  ByteTrie ids;                         // content to id

  /// Cuts the bytes between two places of a text at the tokens of one trie: calls part(first, last, token), where
  /// token is null for what is between them. Source: AddedVocabulary of Hugging Face's tokenizers: the leftmost, of
  /// these the longest, and one that is refused because it is no single word hides what overlaps it.
  template <class F>
  void split(const ByteTrie& trie, std::string_view text, std::size_t first, std::size_t last, F&& part) const {
    std::size_t done = first, spaces_begin = last, spaces_end = last;  // the last spaces that a token took after it
    for (std::size_t at = first; !trie.empty() && at < last;) {
      const auto match = trie.longest(text.substr(at, last - at));
      if (match.size == 0) {
        ++at;
        continue;
      }
      std::size_t begin = at, end = at + match.size;
      at = end;
      const AddedToken& token = tokens[static_cast<std::size_t>(match.value)];
      if (token.single_word && (word_before(text, first, begin) || word_after(text, end, last))) continue;
      if (token.lstrip) begin = std::max(done, without_spaces_at_end(text, done, begin));
      if (token.rstrip) {
        if (end < spaces_begin || end > spaces_end) {
          spaces_begin = end;
          spaces_end = without_spaces_at_begin(text, end, last);
        }
        end = spaces_end;
      }
      if (done < begin) part(done, begin, static_cast<const AddedToken*>(nullptr));
      part(begin, end, &token);
      done = end;
    }
    if (done < last) part(done, last, static_cast<const AddedToken*>(nullptr));
  }

 private:
  static bool is(std::string_view text, std::size_t at, std::uint32_t property) {
    return (unicode::properties(code_point(text, at)) & property) != 0;
  }
  static bool word_before(std::string_view text, std::size_t first, std::size_t at) {
    return at > first && is(text, code_point_before(text, at), unicode::word);
  }
  static bool word_after(std::string_view text, std::size_t at, std::size_t last) {
    return at < last && is(text, at, unicode::word);
  }
  static std::size_t without_spaces_at_end(std::string_view text, std::size_t first, std::size_t at) {
    while (at > first && is(text, code_point_before(text, at), unicode::space)) at = code_point_before(text, at);
    return at;
  }
  static std::size_t without_spaces_at_begin(std::string_view text, std::size_t at, std::size_t last) {
    while (at < last && is(text, at, unicode::space)) at += utf8_length(byte_at(text, at));
    return at;
  }
};

}  // namespace lora::inline LORA_ABI::detail
