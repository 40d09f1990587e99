#pragma once
/// The model of GPT-2 and RoBERTa: the bytes of a word, of which pairs become one token, the pair that the file has
/// first before all others.

#include "lora/text/detail/byte_trie.hpp"
#include "lora/text/detail/merge_table.hpp"
#include "lora/text/detail/piece.hpp"
#include "lora/text/detail/utf8.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// What merging needs. Memory is kept from word to word: at most 32 bytes for each byte of the longest.
struct MergeScratch {
  /// Tokens so far, at the place of their first byte: a list in both directions.
  struct Symbol {
    int id;
    std::uint32_t before, after;
    MergeTable::Rank rank;  // of the pair with the one after it; none for what is gone
  };
  std::vector<Symbol> symbols;
  /// A heap of ranks, each with its place below it. Some are no longer those of their place.
  std::vector<std::uint64_t> queue;
};

struct BytePair {
  /// Places within a word are 32 bits.
  static constexpr std::size_t most_bytes = 0xfffffffe;

  bool prefix_space = false;   // a space is thought in front of a text
  ByteTrie vocabulary;         // tokens as the file writes them
  ByteTrie whole;              // the bytes of the words that are one token
  std::array<int, 256> bytes;  // the token of each
  MergeTable merges;

  /// Adds the pieces of the bytes between two places of a text, in front of which there may be a space that is not in
  /// it. A piece stands for all code points that it has bytes of; that space, for the code point after it. Cost: O(n
  /// log n) for n bytes, times the search for a pair.
  void add(std::string_view text, std::size_t begin, std::size_t end, bool after_prefix, MergeScratch& scratch,
           std::vector<Piece>& to) const {
    const std::size_t prefix = after_prefix ? 1 : 0, size = end - begin + prefix;
    const auto stands_for = [&](int id, std::size_t first, std::size_t last) {
      const std::size_t from = start(text, begin + (first > prefix ? first - prefix : 0));
      const std::size_t last_byte = start(text, begin + (last > prefix + 1 ? last - prefix - 1 : 0));
      to.push_back({id, from, last_byte + utf8_length(byte_at(text, last_byte))});
    };
    const ByteTrie::Node from = after_prefix ? whole.child(ByteTrie::root, ' ') : ByteTrie::root;
    const int one = whole.find(text.substr(begin, end - begin), from);
    if (one != ByteTrie::nothing) {
      stands_for(one, 0, size);
      return;
    }
    merge(text.substr(begin, end - begin), after_prefix, scratch);
    for (std::size_t at = 0; at < size;) {
      const auto& symbol = scratch.symbols[at];
      stands_for(symbol.id, at, symbol.after);
      at = symbol.after;
    }
  }

  /// Leaves the tokens of a word in the scratch, from its first symbol on.
  void merge(std::string_view word, bool after_prefix, MergeScratch& scratch) const {
    auto& symbols = scratch.symbols;
    auto& queue = scratch.queue;
    symbols.clear();
    queue.clear();
    symbols.reserve(word.size() + 1);
    queue.reserve(2 * (word.size() + 1));  // a merge takes one out, and puts two in
    const auto append = [&](unsigned byte) {
      const auto at = static_cast<std::uint32_t>(symbols.size());
      symbols.push_back({bytes[byte], at - 1, at + 1, MergeTable::none});
    };
    if (after_prefix) append(' ');
    for (const char byte : word) append(static_cast<unsigned char>(byte));
    const auto size = static_cast<std::uint32_t>(symbols.size());

    const auto look_up = [&](std::uint32_t at) {
      auto& symbol = symbols[at];
      symbol.rank = symbol.after < size ? merges.rank(symbol.id, symbols[symbol.after].id) : MergeTable::none;
      if (symbol.rank == MergeTable::none) return false;
      queue.push_back(std::uint64_t{symbol.rank} << 32 | at);
      return true;
    };
    for (std::uint32_t at = 0; at < size; ++at) look_up(at);
    std::make_heap(queue.begin(), queue.end(), std::greater());
    while (!queue.empty()) {
      std::pop_heap(queue.begin(), queue.end(), std::greater());
      const auto at = static_cast<std::uint32_t>(queue.back());
      const auto rank = static_cast<MergeTable::Rank>(queue.back() >> 32);
      queue.pop_back();
      auto& symbol = symbols[at];
      if (symbol.rank != rank) continue;  // one of the two has grown since
      symbol.id = merges.product(rank);
      auto& gone = symbols[symbol.after];
      symbol.after = gone.after;
      gone.rank = MergeTable::none;
      if (symbol.after < size) symbols[symbol.after].before = at;
      if (look_up(at)) std::push_heap(queue.begin(), queue.end(), std::greater());
      if (at > 0 && look_up(symbol.before)) std::push_heap(queue.begin(), queue.end(), std::greater());
    }
  }

 private:
  /// Where the code point begins that has this byte.
  static std::size_t start(std::string_view text, std::size_t at) {
    while ((byte_at(text, at) & 0xc0) == 0x80) --at;
    return at;
  }
};

}  // namespace lora::inline LORA_ABI::detail
