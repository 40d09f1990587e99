#pragma once
/// JSON from files that nobody has to trust, one event after the other, with bounded memory.
///
/// The parser is nlohmann/json's, by its SAX interface: no tree is built. Around it stand the rules it does not have:
/// bounds on size, depth and number of values; no name twice in one object; no NUL and no byte order mark; and every
/// error is a FormatError. Text has to be UTF-8, with nothing but white space around the one value.

#include "lora/io/file_error.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI {

struct JsonLimits {
  std::size_t bytes = 100'000'000;
  /// Objects and arrays within each other: [] is 1, [[]] is 2.
  std::size_t depth = 8;
  /// Everything that is not a name: objects, arrays, strings, numbers, true, false, null.
  std::size_t values = 50'000'000;
};

/// What read_json tells. Texts are only valid during the call. What these functions throw ends the reading.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void begin_object() = 0;
  virtual void key(std::string_view name) = 0;
  virtual void end_object() = 0;
  virtual void begin_array() = 0;
  virtual void end_array() = 0;
  virtual void string(std::string_view value) = 0;
  /// Only digits, and at most 2^64 - 1.
  virtual void unsigned_integer(std::uint64_t value) = 0;
  /// A minus and digits (-0 too), and at least -2^63.
  virtual void negative_integer(std::int64_t value) = 0;
  /// Any other number, with its text as it was written: 2.0, 1e1, or an integer beyond the two above.
  virtual void real(double value, std::string_view text) = 0;
  virtual void boolean(bool value) = 0;
  virtual void null() = 0;
};

namespace detail {

/// The names of the objects that are open. Kept in one string and sorted at an object's end, so that no choice of names
/// can make it slow, as it could with a hash table.
class JsonNames {
 public:
  void open() { starts_.push_back(names_.size()); }
  void add(std::string_view name) {
    names_.push_back({text_.size(), name.size()});
    text_ += name;
  }
  /// Ends the innermost object: throws FormatError if it has one name twice.
  void close(std::string_view who) {
    const auto first = names_.begin() + static_cast<std::ptrdiff_t>(starts_.back());
    if (first == names_.end()) {
      starts_.pop_back();
      return;
    }
    const std::size_t text_start = first->start;
    std::sort(first, names_.end(), [&](const Range& a, const Range& b) { return view(a) < view(b); });
    const auto twice =
        std::adjacent_find(first, names_.end(), [&](const Range& a, const Range& b) { return view(a) == view(b); });
    if (twice != names_.end()) fail<FormatError>(who, "the name " + shown(view(*twice)) + " is there twice");
    names_.erase(first, names_.end());
    text_.resize(text_start);
    starts_.pop_back();
  }

 private:
  struct Range {
    std::size_t start, size;
  };
  std::string_view view(const Range& range) const { return std::string_view(text_).substr(range.start, range.size); }

  std::string text_;
  std::vector<Range> names_;
  std::vector<std::size_t> starts_;
};

/// What nlohmann::json::sax_parse calls.
class JsonGuard {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  JsonGuard(std::string_view who, JsonEvents& events, const JsonLimits& limits)
      : who_(who), events_(events), limits_(limits) {}

  bool start_object(std::size_t) {
    enter();
    names_.open();
    events_.begin_object();
    return true;
  }
  bool key(string_t& name) {
    names_.add(name);
    events_.key(name);
    return true;
  }
  bool end_object() {
    --depth_;
    names_.close(who_);
    events_.end_object();
    return true;
  }
  bool start_array(std::size_t) {
    enter();
    events_.begin_array();
    return true;
  }
  bool end_array() {
    --depth_;
    events_.end_array();
    return true;
  }
  bool null() { return count(), events_.null(), true; }
  bool boolean(bool value) { return count(), events_.boolean(value), true; }
  bool number_integer(number_integer_t value) { return count(), events_.negative_integer(value), true; }
  bool number_unsigned(number_unsigned_t value) { return count(), events_.unsigned_integer(value), true; }
  bool number_float(number_float_t value, const string_t& text) {
    count();
    // The parser writes the decimal point of the current locale.
    string_t written = text;
    for (char& letter : written) {
      if (std::string_view("0123456789+-eE").find(letter) == std::string_view::npos) letter = '.';
    }
    events_.real(value, written);
    return true;
  }
  bool string(string_t& value) { return count(), events_.string(value), true; }
  bool binary(binary_t&) { return false; }  // not in JSON text
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing value - invalid
    // literal; last read: '...'": only the middle, because the end can be as long as the file.
    std::string_view reason = error.what();
    reason.remove_prefix(std::min(reason.find("while parsing"), reason.size()));
    reason = reason.substr(0, reason.find("; last read"));
    fail<FormatError>(who_, "is not valid JSON at byte " + std::to_string(position) + ": " +
                                (reason.empty() ? "a number is out of range" : std::string(reason)));
  }

 private:
  void enter() {
    count();
    if (++depth_ > limits_.depth) {
      fail<FormatError>(who_, "its JSON nests deeper than " + std::to_string(limits_.depth) + " levels");
    }
  }
  void count() {
    if (++values_ > limits_.values) {
      fail<FormatError>(who_, "its JSON has more than " + std::to_string(limits_.values) + " values");
    }
  }

  std::string_view who_;
  JsonEvents& events_;
  JsonLimits limits_;
  JsonNames names_;
  std::size_t depth_ = 0, values_ = 0;
};

}  // namespace detail

/// Tells events what is in the text, in its order. Throws FormatError `who: ...` at the first thing that is wrong; a
/// name that is there twice is found when its object ends. Cost: O(n), and O(n log n) in the names of one object;
/// memory: the names of the open objects and the longest string.
inline void read_json(std::string_view who, std::string_view text, JsonEvents& events, const JsonLimits& limits = {}) {
  if (text.size() > limits.bytes) {
    detail::fail<FormatError>(who, "its JSON has " + std::to_string(text.size()) + " bytes, expected at most " +
                                       std::to_string(limits.bytes));
  }
  // The parser takes a NUL for the end of the text, and skips a byte order mark.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
    detail::fail<FormatError>(who, "is not valid JSON at byte " + std::to_string(nul + 1) + ": a NUL");
  }
  if (text.starts_with("\xef")) {
    detail::fail<FormatError>(who, "is not valid JSON at byte 1: a byte order mark, or text outside of a string");
  }
  detail::JsonGuard guard(who, events, limits);
  nlohmann::json::sax_parse(text.begin(), text.end(), &guard);
}

}  // namespace lora::inline LORA_ABI
