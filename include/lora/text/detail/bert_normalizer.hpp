#pragma once
/// The normalizer of BERT: cleans a text, sets Chinese apart, drops accents, lowers case.

#include "lora/text/detail/unicode.hpp"
#include "lora/text/detail/utf8.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// A text that was made of another one. Memory is kept from text to text.
struct NormalizedText {
  std::string text;
  /// For each of its bytes, where the code point of the original begins that it comes from.
  std::vector<std::size_t> origin;

  /// Marks after one letter, which decomposition sorts.
  struct Mark {
    std::uint32_t code, order;
    std::size_t place;
    bool kept;
    bool added;  // by the decomposition of the code point before it
  };
  std::vector<Mark> marks;
  std::vector<std::size_t> origin_of_marks;

  void clear() {
    text.clear();
    origin.clear();
    marks.clear();
    origin_of_marks.clear();
  }
  void add(char byte, std::size_t from) {
    text.push_back(byte);
    origin.push_back(from);
  }
};

/// Source: BertNormalizer of Hugging Face's tokenizers, which takes these four steps one after another for a whole
/// text. All but the sorting of marks look at one code point, so one pass does the same.
struct BertNormalizer {
  bool clean_text = false, handle_chinese_chars = false, strip_accents = false, lowercase = false;

  /// Normalizes the bytes from `first` to `last` of a text that is UTF-8. No heap, once `to` has seen a text as long.
  void normalize(std::string_view text, std::size_t first, std::size_t last, NormalizedText& to) const {
    to.clear();
    for (std::size_t at = first; at < last;) {
      const unsigned byte = byte_at(text, at);
      const std::uint32_t code = byte < 0x80 ? byte : code_point(text, at);
      const std::size_t from = at;
      at += utf8_length(byte);
      if (byte >= 0x20 && byte < 0x7f) {  // most of most texts
        if (!to.origin_of_marks.empty()) release_marks(to);
        to.add(static_cast<char>(lowercase && byte >= 'A' && byte <= 'Z' ? byte + 32 : byte), from);
        continue;
      }
      const std::uint32_t properties = unicode::properties(code);
      if (clean_text && (properties & unicode::control) != 0) continue;
      const bool blank = clean_text && (properties & unicode::space) != 0;
      const bool apart = handle_chinese_chars && (properties & unicode::chinese) != 0;
      if (apart || blank) add(' ', 0, from, to);
      if (!blank) add(code, properties, from, to);
      if (apart) add(' ', 0, from, to);
    }
    release_marks(to);
  }

 private:
  void add(std::uint32_t code, std::uint32_t properties, std::size_t from, NormalizedText& to) const {
    if (!strip_accents) {
      add_lowered(code, from, to);
      return;
    }
    if (unicode::order(properties) != 0) {
      hold_mark(code, properties, false, to);
      to.origin_of_marks.push_back(from);
      return;
    }
    release_marks(to);
    if ((properties & unicode::mark) != 0) return;
    if (code < 0x80) {
      add_lowered(code, from, to);
      return;
    }
    to.origin_of_marks.push_back(from);  // in front of those of the marks that follow
    for (const std::uint32_t part : unicode::Stripped(code)) {
      const std::uint32_t of_part = unicode::properties(part);
      if (unicode::order(of_part) != 0) {
        hold_mark(part, of_part, true, to);
      } else {
        add_lowered(part, from, to);
      }
    }
  }

  static void hold_mark(std::uint32_t code, std::uint32_t properties, bool added, NormalizedText& to) {
    to.marks.push_back({code, unicode::order(properties), to.marks.size(), (properties & unicode::mark) == 0, added});
  }

  /// Marks that are kept come in the order of decomposition, which those that are dropped take part in: a mark takes
  /// its origin from its new place, as in the reference.
  void release_marks(NormalizedText& to) const {
    if (std::any_of(to.marks.begin(), to.marks.end(), [](const auto& mark) { return mark.kept; })) {
      std::sort(to.marks.begin(), to.marks.end(),
                [](const auto& a, const auto& b) { return std::tie(a.order, a.place) < std::tie(b.order, b.place); });
      std::size_t next = to.origin_of_marks.size() - original_marks(to);
      for (const auto& mark : to.marks) {
        if (!mark.added) ++next;
        if (mark.kept) add_lowered(mark.code, to.origin_of_marks[next - 1], to);
      }
    }
    to.marks.clear();
    to.origin_of_marks.clear();
  }
  static std::size_t original_marks(const NormalizedText& to) {
    return static_cast<std::size_t>(
        std::count_if(to.marks.begin(), to.marks.end(), [](const auto& mark) { return !mark.added; }));
  }

  void add_lowered(std::uint32_t code, std::size_t from, NormalizedText& to) const {
    constexpr std::uint32_t dotted_capital_i = 0x130, dot_above = 0x307;
    const auto append = [&](std::uint32_t one) { for_each_byte(one, [&](char byte) { to.add(byte, from); }); };
    if (lowercase && code == dotted_capital_i) {
      append('i');
      append(dot_above);
    } else {
      append(lowercase ? unicode::lowered(code) : code);
    }
  }
};

}  // namespace lora::inline LORA_ABI::detail
