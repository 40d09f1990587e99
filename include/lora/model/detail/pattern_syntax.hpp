#pragma once
/// Parses a regular expression into a tree. pattern.hpp, which matches, says what is supported.

#include "lora/core/error.hpp"

#include <algorithm>
#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

struct PatternNode {
  /// A set of characters: those of ASCII, and four kinds of characters beyond it. Which of the others are letters, a
  /// table of a thousand lines would know: they are two kinds, and a set that has only one of them decides nothing.
  using Characters = std::bitset<132>;
  static constexpr std::size_t other_digits = 128, other_spaces = 129, other_word = 130, other_no_word = 131;
  enum class Kind {
    character,
    text,
    sequence,
    alternatives,
    repeat,
    start,
    end,
    word_edge,
    no_word_edge,
    ahead,
    not_ahead
  };
  Kind kind = Kind::sequence;
  Characters characters{};           // character
  std::string text{};                // text: the bytes of one character beyond ASCII
  std::vector<PatternNode> parts{};  // the other kinds
  std::size_t least = 0, most = 0;   // repeat
};

/// The characters of \d, \w or \s.
inline PatternNode::Characters character_class(char which) {
  const std::string_view members = which == 'd'   ? "0123456789"
                                   : which == 's' ? " \t\n\r\f\v\x1c\x1d\x1e\x1f"
                                                  : "0123456789_abcdefghijklmnopqrstuvwxyz"
                                                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  PatternNode::Characters set;
  for (const char c : members) set.set(static_cast<unsigned char>(c));
  if (which == 's') return set.set(PatternNode::other_spaces);
  set.set(PatternNode::other_digits);
  return which == 'd' ? set : set.set(PatternNode::other_word);
}

/// A character of ASCII that \w has.
inline bool is_word(char c) {
  static const PatternNode::Characters words = character_class('w');
  const auto code = static_cast<unsigned char>(c);
  return code < 128 && words[code];
}

/// One character of UTF-8: how many bytes it has, and its position in a set. Bytes that are no UTF-8 are characters of
/// their own.
struct PatternCharacter {
  std::size_t bytes = 1, kind = 0;
};
inline PatternCharacter character_at(std::string_view name, std::size_t at) {
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(name[at + k]); };
  if (byte(0) < 0x80) return {1, byte(0)};
  const std::size_t bytes = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : byte(0) >= 0xc0 ? 2 : 1;
  // Both kinds of the others at once: a set that has one of them only is refused.
  constexpr std::size_t other = PatternNode::other_word;
  if (bytes == 1 || at + bytes > name.size()) return {1, other};
  std::uint32_t code = byte(0) & (0xffu >> (bytes + 1));
  for (std::size_t k = 1; k < bytes; ++k) {
    if ((byte(k) & 0xc0u) != 0x80u) return {1, other};
    code = code << 6 | (byte(k) & 0x3fu);
  }
  constexpr std::array<std::uint16_t, 8> spaces{0x85, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000};
  if ((code >= 0x2000 && code <= 0x200a) || std::find(spaces.begin(), spaces.end(), code) != spaces.end()) {
    return {bytes, PatternNode::other_spaces};
  }
  // The zeros of all scripts, each followed by its other nine digits: Unicode 14, the category Nd.
  constexpr std::array<std::uint32_t, 65> zeros{
      0x660,   0x6f0,   0x7c0,   0x966,   0x9e6,   0xa66,   0xae6,   0xb66,   0xbe6,   0xc66,   0xce6,
      0xd66,   0xde6,   0xe50,   0xed0,   0xf20,   0x1040,  0x1090,  0x17e0,  0x1810,  0x1946,  0x19d0,
      0x1a80,  0x1a90,  0x1b50,  0x1bb0,  0x1c40,  0x1c50,  0xa620,  0xa8d0,  0xa900,  0xa9d0,  0xa9f0,
      0xaa50,  0xabf0,  0xff10,  0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450,
      0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0,
      0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0};
  const auto above = std::upper_bound(zeros.begin(), zeros.end(), code);
  const bool digit = above != zeros.begin() && code - *(above - 1) < 10;
  return {bytes, digit ? PatternNode::other_digits : other};
}

/// Reads one pattern. Throws ConfigError `who: the pattern "a(b" ...`.
class PatternReader {
 public:
  PatternReader(std::string_view text, const Caller& who) : text_(text), who_(who) {}

  PatternNode read() {
    Node root = alternatives(0);
    if (at_ < text_.size()) refuse("has an unmatched closing bracket");
    return root;
  }

 private:
  using Node = PatternNode;
  using Kind = Node::Kind;
  using Characters = Node::Characters;
  static constexpr std::size_t unbounded = std::numeric_limits<std::size_t>::max();

  Node alternatives(int depth) {
    if (depth > 50) refuse("is nested too deeply");
    Node node{.kind = Kind::alternatives};
    node.parts.push_back(sequence(depth));
    while (take('|')) node.parts.push_back(sequence(depth));
    return node;
  }

  Node sequence(int depth) {
    Node node;
    while (at_ < text_.size() && text_[at_] != '|' && text_[at_] != ')') node.parts.push_back(quantified(depth));
    return node;
  }

  Node quantified(int depth) {
    Node node = atom(depth);
    std::size_t least = 0;
    std::size_t most = unbounded;
    if (!quantifier(least, most)) return node;
    const bool edge = node.kind == Kind::start || node.kind == Kind::end || node.kind == Kind::word_edge ||
                      node.kind == Kind::no_word_edge;
    if (edge) refuse("has nothing before a quantifier");
    if (take('+')) refuse("has a possessive quantifier");
    take('?');  // a lazy quantifier matches the same names
    if (quantifier(least, most)) refuse("has a quantifier of a quantifier");
    Node repeated{.kind = Kind::repeat, .least = least, .most = most};
    repeated.parts.push_back(std::move(node));
    return repeated;
  }

  /// Reads a quantifier if one comes next; else returns false and changes nothing.
  bool quantifier(std::size_t& least, std::size_t& most) {
    if (take('*')) return true;
    if (take('+')) return least = 1, true;
    if (take('?')) return most = 1, true;
    const std::size_t begin = at_;
    if (!take('{')) return false;
    std::size_t low = 0;
    std::size_t high = unbounded;
    const bool lower = number(low);
    const bool comma = take(',');
    if (comma) {
      number(high);
    } else {
      high = low;
    }
    if (!(lower || comma) || !take('}')) {  // plain text, as in Python
      at_ = begin;
      return false;
    }
    if (high < low) refuse("has a quantifier whose minimum exceeds its maximum");
    least = low;
    most = high;
    return true;
  }

  bool number(std::size_t& value) {
    const std::size_t begin = at_;
    std::size_t read = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      read = 10 * read + static_cast<std::size_t>(text_[at_] - '0');
      if (read > 1000) refuse("repeats more than 1000 times");
    }
    if (at_ > begin) value = read;
    return at_ > begin;
  }

  Node atom(int depth) {
    std::size_t least = 0;
    std::size_t most = unbounded;
    if (quantifier(least, most)) refuse("has nothing before a quantifier");
    const char c = text_[at_++];  // sequence() has looked
    switch (c) {
      case '(': return group(depth);
      case '[': return {.kind = Kind::character, .characters = set()};
      case '.': return {.kind = Kind::character, .characters = ~Characters().set('\n')};
      case '^': return {.kind = Kind::start};
      case '$': return {.kind = Kind::end};
      case '\\': break;
      default: return is_ascii(c) ? one(c) : beyond_ascii();
    }
    const char escaped = next_escaped();
    if (!is_ascii(escaped)) return beyond_ascii();
    switch (escaped) {
      case 'A': return {.kind = Kind::start};
      case 'Z': return {.kind = Kind::end};
      case 'b': return {.kind = Kind::word_edge};
      case 'B': return {.kind = Kind::no_word_edge};
      default: return {.kind = Kind::character, .characters = escape(escaped)};
    }
  }

  Node group(int depth) {
    Node node;
    Kind look = Kind::sequence;
    if (take('?')) {
      if (take('='))
        look = Kind::ahead;
      else if (take('!'))
        look = Kind::not_ahead;
      else if (take('P'))
        skip_name();
      else if (!take(':'))
        refuse("has a kind of group that is not supported");
    }
    node = alternatives(depth + 1);
    if (!take(')')) refuse("has an unmatched opening bracket");
    if (look == Kind::sequence) return node;
    Node ahead{.kind = look};
    ahead.parts.push_back(std::move(node));
    return ahead;
  }

  void skip_name() {
    if (!take('<')) refuse("has a kind of group that is not supported");
    const std::size_t begin = at_ - 4;
    while (next(begin, "a > that ends the name of the group") != '>') {
    }
  }

  Characters set() {
    Characters all;
    const std::size_t opening = at_ - 1;
    const bool inverted = take('^');
    for (bool first = true; first || !take(']'); first = false) {
      const std::size_t begin = at_;
      const Characters low = member(opening);
      const bool range = at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']';
      if (!range) {
        all |= low;
        continue;
      }
      ++at_;
      const Characters high = member(opening);
      if (low.count() != 1 || high.count() != 1 || lowest(low) > lowest(high)) {
        refuse("has an invalid range " + in_quotes(text_.substr(begin, at_ - begin)));
      }
      for (std::size_t code = lowest(low); code <= lowest(high); ++code) all.set(code);
    }
    return inverted ? ~all : all;
  }

  Characters member(std::size_t opening) {
    const char c = next(opening, "a ] that ends the set");
    if (c != '\\') return one(c).characters;
    const char escaped = next_escaped();
    return escaped == 'b' ? one('\b').characters : escape(escaped);
  }

  static std::size_t lowest(const Characters& set) {
    std::size_t code = 0;
    while (!set[code]) ++code;
    return code;
  }

  Characters escape(char c) const {
    switch (c) {
      case 'd':
      case 'w':
      case 's': return character_class(c);
      case 'D': return ~character_class('d');
      case 'W': return ~character_class('w');
      case 'S': return ~character_class('s');
      case 'n': return one('\n').characters;
      case 't': return one('\t').characters;
      case 'r': return one('\r').characters;
      case 'f': return one('\f').characters;
      case 'v': return one('\v').characters;
      default: break;
    }
    if (is_word(c) && c != '_') refuse("has an escape " + in_quotes(std::string("\\") + c) + " that is not supported");
    return one(c).characters;
  }

  Node one(char c) const {
    if (!is_ascii(c)) refuse("has characters beyond ASCII in a set");
    return {.kind = Kind::character, .characters = Characters().set(static_cast<unsigned char>(c))};
  }

  static bool is_ascii(char c) { return static_cast<unsigned char>(c) < 128; }

  /// The character whose first byte has just been read.
  Node beyond_ascii() {
    const std::size_t begin = at_ - 1, bytes = character_at(text_, begin).bytes;
    at_ = begin + bytes;
    return {.kind = Kind::text, .text = std::string(text_.substr(begin, bytes))};
  }

  char next(std::size_t begin, const char* expected) {
    if (at_ == text_.size()) refuse("ends in " + in_quotes(text_.substr(begin)) + ", expected " + expected);
    return text_[at_++];
  }
  /// The character after a backslash.
  char next_escaped() { return next(at_ - 1, "a character after the backslash"); }
  bool take(char c) {
    const bool found = at_ < text_.size() && text_[at_] == c;
    at_ += found ? 1 : 0;
    return found;
  }

  [[noreturn]] void refuse(const std::string& why) const {
    fail<ConfigError>(who_, "the pattern " + in_quotes(text_) + " " + why);
  }

  std::string_view text_;
  Caller who_;
  std::size_t at_ = 0;  // how far text_ has been read
};

}  // namespace lora::inline LORA_ABI::detail
