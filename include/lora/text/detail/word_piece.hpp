#pragma once
/// The model: a word as the longest pieces that the vocabulary has, from left to right.

#include "lora/text/detail/byte_trie.hpp"
#include "lora/text/detail/piece.hpp"

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

struct WordPiece {
  int unknown = 0;
  std::size_t most_code_points = 0;  // of a word; a longer one is unknown
  ByteTrie vocabulary;
  ByteTrie::Node inside = ByteTrie::root;  // where the continuing prefix leads, "##"

  /// Adds the pieces of the word between two places of a text, or one unknown. Cost: O(bytes) look-ups for usual
  /// vocabularies, and at most as many for each byte as a word may be long.
  void add(std::string_view text, std::size_t begin, std::size_t end, std::size_t code_points,
           std::vector<Piece>& to) const {
    const std::size_t before = to.size();
    if (code_points <= most_code_points) {
      std::size_t at = begin;
      while (at < end) {
        if (at > begin && inside == ByteTrie::nowhere) break;
        const auto match = vocabulary.longest(text.substr(at, end - at), at == begin ? ByteTrie::root : inside);
        if (match.size == 0) break;
        to.push_back({match.value, at, at + match.size});
        at += match.size;
      }
      if (at == end) return;
      to.resize(before);
    }
    to.push_back({unknown, begin, end});
  }
};

}  // namespace lora::inline LORA_ABI::detail
