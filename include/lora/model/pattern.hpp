#pragma once
/// Regular expressions for the names of layers, as PEFT's configs use them.
///
/// The syntax is that of Python's `re`; features that do not affect whether a whole name matches are parsed and ignored
/// (lazy quantifiers, names of groups), and features that this matcher does not support are refused: back-references,
/// look-behind, atomic groups and possessive quantifiers, flags, comments, characters beyond ASCII in a set.
///
/// Names are UTF-8. A dot, \D, \S and [^...] match a whole character beyond ASCII, as in Python. Which of these are
/// letters it does not know: where \w, \W or \b would have to, the pattern is refused with that name.
///
/// Patterns come from untrusted files, so the matcher does not backtrack: it tracks the set of all positions that a
/// match can have reached, which no pattern can make exponential, and fails with an error after a fixed amount of work.

#include "lora/core/error.hpp"
#include "lora/model/detail/pattern_syntax.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

class Pattern {
 public:
  /// Throws ConfigError `who: the pattern "a(b" ...` unless it is a supported regular expression.
  Pattern(std::string text, detail::Caller who)
      : text_(std::move(text)), who_(who), root_(detail::PatternReader(text_, who).read()) {}

  /// Whether it is several alternatives, a|b, outside of all brackets.
  bool has_alternatives() const { return root_.parts.size() > 1; }

  /// Whether the whole name matches: Python's re.fullmatch. Throws ConfigError if deciding it takes too long.
  bool matches(std::string_view name) const {
    std::size_t left = most_work;
    return matches(name, left);
  }
  /// The same, within what is left of the work that many calls may cost together.
  bool matches(std::string_view name, std::size_t& left) const {
    const std::size_t most = std::min(left, most_work);
    std::size_t work = most;
    Positions start(name.size() + 1);
    start[0] = true;
    const bool found = advance(root_, start, name, work)[name.size()];
    left -= most - work;
    return found;
  }

 private:
  using Node = detail::PatternNode;
  using Kind = Node::Kind;
  using Positions = std::vector<bool>;  // n + 1 for a name of n characters
  static constexpr std::size_t most_work = 20'000'000;

  /// Maps the positions before a node to the positions after it.
  Positions advance(const Node& node, const Positions& from, std::string_view name, std::size_t& work) const {
    if (work < from.size()) {
      detail::fail<ConfigError>(who_, "the pattern " + detail::in_quotes(text_) + " takes too long to decide");
    }
    work -= from.size();
    Positions to(from.size());
    switch (node.kind) {
      case Kind::character:
        for (std::size_t i = 0; i < name.size(); ++i) {
          if (!from[i]) continue;
          const detail::PatternCharacter next = detail::character_at(name, i);
          if (holds(node.characters, next.kind, name)) to[i + next.bytes] = true;
        }
        return to;
      case Kind::text:
        for (std::size_t i = 0; i < name.size(); ++i) {
          if (from[i] && name.substr(i).starts_with(node.text)) to[i + node.text.size()] = true;
        }
        return to;
      case Kind::sequence:
        to = from;
        for (const Node& part : node.parts) to = advance(part, to, name, work);
        return to;
      case Kind::alternatives:
        for (const Node& part : node.parts) join(to, advance(part, from, name, work));
        return to;
      case Kind::repeat: return repeat(node, from, name, work);
      default:
        for (std::size_t i = 0; i < from.size(); ++i) to[i] = from[i] && holds_at(node, i, name, work);
        return to;
    }
  }

  Positions repeat(const Node& node, Positions from, std::string_view name, std::size_t& work) const {
    std::size_t count = 0;
    for (; count < node.least; ++count) {
      Positions next = advance(node.parts[0], from, name, work);
      if (next == from) break;  // a fixed point
      from = std::move(next);
    }
    Positions reached = from;
    for (; count < node.most; ++count) {
      from = advance(node.parts[0], from, name, work);
      if (!join(reached, from)) break;
    }
    return reached;
  }

  bool holds_at(const Node& node, std::size_t i, std::string_view name, std::size_t& work) const {
    switch (node.kind) {
      case Kind::start: return i == 0;
      case Kind::end: return i == name.size();
      case Kind::word_edge: return is_word_before(name, i) != is_word_at(name, i);
      case Kind::no_word_edge: return is_word_before(name, i) == is_word_at(name, i);
      default: break;
    }
    Positions only(name.size() + 1);
    only[i] = true;
    const Positions found = advance(node.parts[0], only, name, work);
    const bool any = std::find(found.begin(), found.end(), true) != found.end();
    return any == (node.kind == Kind::ahead);
  }

  /// Whether a set has a character of this kind. Throws ConfigError for a letter beyond ASCII, if it may be one.
  bool holds(const Node::Characters& set, std::size_t kind, std::string_view name) const {
    if (kind == Node::other_word && set[Node::other_word] != set[Node::other_no_word]) {
      detail::fail<ConfigError>(who_, "the pattern " + detail::in_quotes(text_) + " asks which characters of " +
                                          detail::in_quotes(name) + " are letters, which is known for ASCII only");
    }
    return set[kind];
  }
  bool is_word_at(std::string_view name, std::size_t i) const {
    static const Node::Characters words = detail::character_class('w');
    return i < name.size() && holds(words, detail::character_at(name, i).kind, name);
  }
  bool is_word_before(std::string_view name, std::size_t i) const {
    if (i == 0) return false;
    std::size_t start = i - 1;
    while (start > 0 && i - start < 4 && (static_cast<unsigned char>(name[start]) & 0xc0u) == 0x80u) --start;
    return is_word_at(name, detail::character_at(name, start).bytes == i - start ? start : i - 1);
  }

  /// Adds `more` to `all`; returns whether that changed it.
  static bool join(Positions& all, const Positions& more) {
    bool news = false;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!more[i] || all[i]) continue;
      all[i] = true;
      news = true;
    }
    return news;
  }

  std::string text_;
  detail::Caller who_;
  Node root_;
};

}  // namespace lora::inline LORA_ABI
