#pragma once
/// Parses a regular expression into a tree. pattern.hpp, which matches, says what is supported.

#include "lora/core/error.hpp"

#include <bitset>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

struct PatternNode {
  using Characters = std::bitset<128>;
  enum class Kind { character, sequence, alternatives, repeat, start, end, word_edge, no_word_edge, ahead, not_ahead };
  Kind kind = Kind::sequence;
  Characters characters{};           // character
  std::vector<PatternNode> parts{};  // the other kinds
  std::size_t least = 0, most = 0;   // repeat
};

/// The characters of \d, \w or \s.
inline PatternNode::Characters character_class(char which) {
  const std::string_view members = which == 'd'   ? "0123456789"
                                   : which == 's' ? " \t\n\r\f\v"
                                                  : "0123456789_abcdefghijklmnopqrstuvwxyz"
                                                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  PatternNode::Characters set;
  for (const char c : members) set.set(static_cast<unsigned char>(c));
  return set;
}

inline bool holds(const PatternNode::Characters& set, char c) {
  const auto code = static_cast<unsigned char>(c);
  return code < 128 && set[code];
}
inline bool is_word(char c) {
  static const PatternNode::Characters words = character_class('w');
  return holds(words, c);
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
    const char c = next();
    switch (c) {
      case '(': return group(depth);
      case '[': return {.kind = Kind::character, .characters = set()};
      case '.': return {.kind = Kind::character, .characters = ~Characters().set('\n')};
      case '^': return {.kind = Kind::start};
      case '$': return {.kind = Kind::end};
      case '\\': break;
      default: return one(c);
    }
    const char escaped = next();
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
    while (next() != '>') {
    }
  }

  Characters set() {
    Characters all;
    const bool inverted = take('^');
    for (bool first = true; first || !take(']'); first = false) {
      const std::size_t begin = at_;
      const Characters low = member();
      const bool range = at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']';
      if (!range) {
        all |= low;
        continue;
      }
      ++at_;
      const Characters high = member();
      if (low.count() != 1 || high.count() != 1 || lowest(low) > lowest(high)) {
        refuse("has an invalid range " + in_quotes(text_.substr(begin, at_ - begin)));
      }
      for (std::size_t code = lowest(low); code <= lowest(high); ++code) all.set(code);
    }
    return inverted ? ~all : all;
  }

  Characters member() {
    const char c = next();
    if (c != '\\') return one(c).characters;
    const char escaped = next();
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
    if (static_cast<unsigned char>(c) >= 128) refuse("has characters beyond ASCII");
    return {.kind = Kind::character, .characters = Characters().set(static_cast<unsigned char>(c))};
  }

  char next() {
    if (at_ == text_.size()) refuse("ends too early");
    return text_[at_++];
  }
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
