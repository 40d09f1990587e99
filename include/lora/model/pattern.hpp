#pragma once
/// Regular expressions for the names of layers, as PEFT's configs use them.
///
/// The syntax is that of Python's `re`; features that do not affect whether a whole name matches are parsed and ignored
/// (lazy quantifiers, names of groups), and features that this matcher does not support are refused: back-references,
/// look-behind, atomic groups and possessive quantifiers, flags, comments, characters beyond ASCII.
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
        for (std::size_t i = 0; i < name.size(); ++i) to[i + 1] = from[i] && detail::holds(node.characters, name[i]);
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
    const bool before = i > 0 && detail::is_word(name[i - 1]);
    const bool after = i < name.size() && detail::is_word(name[i]);
    switch (node.kind) {
      case Kind::start: return i == 0;
      case Kind::end: return i == name.size();
      case Kind::word_edge: return before != after;
      case Kind::no_word_edge: return before == after;
      default: break;
    }
    Positions only(name.size() + 1);
    only[i] = true;
    const Positions found = advance(node.parts[0], only, name, work);
    const bool any = std::find(found.begin(), found.end(), true) != found.end();
    return any == (node.kind == Kind::ahead);
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
