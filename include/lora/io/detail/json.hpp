#pragma once
/// Parses untrusted JSON into a tree of nlohmann/json, and writes trees as text.
///
/// Adds to nlohmann's parser the rules that it does not have: bounds on size, depth and number of values; no duplicate
/// name in an object; no NUL and no byte order mark; and every error is a FormatError. Text has to be UTF-8, with
/// nothing but white space around the one value. Objects keep the order of the file. Integers of 64 bits are exact, any
/// other number is the nearest double.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/sort_by.hpp"
#include "lora/io/file_error.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

using Json = nlohmann::ordered_json;

struct JsonLimits {
  std::size_t bytes = 32'000'000;
  /// Nesting of objects and arrays: [] is 1, [[]] is 2.
  std::size_t depth = 8;
  /// Everything that is not a name: objects, arrays, strings, numbers, true, false, null.
  std::size_t values = 2'000'000;
};

/// Throws FormatError `who: ...` at the first error; a duplicate name is found at the end of its object. Cost: O(n),
/// and O(n log n) in the names of one object; memory: at most about 50 bytes for each byte of text, all of which
/// limits.values bounds except the text itself.
Json parse_json(std::string_view who, std::string_view text, const JsonLimits& limits = {});

/// What a value is, for a message: "an object", "a negative number", "true".
std::string found_in_json(const Json& value);

/// Throws ValueError for a number that is not finite, which is not in JSON.
Json json_number(double value);

/// A text in quotes, with minimal escapes, as serde_json and Python's json (ensure_ascii=False) write it; nothing if
/// it is not UTF-8.
std::optional<std::string> json_string(std::string_view text);

/// The same value with the names of all objects in order, byte by byte. (nlohmann::json would sort, but a second type
/// of tree takes seconds to compile.)
Json sorted_by_name(Json value);

/// As Python writes json.dumps(value, indent=2, sort_keys=True), up to the spelling of a few doubles. Throws ValueError
/// for a text that is not UTF-8.
std::string python_json(const Json& value);

#ifdef LORA_IO_DEFINITIONS

/// SAX handler that builds the tree, and stops at a limit. Names and values of open containers wait on two stacks, so
/// that every object and array is constructed with its final size.
class JsonTree {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  JsonTree(std::string_view who, const JsonLimits& limits) : who_(who), limits_(limits) {}

  /// The tree, once parsing is done.
  Json root() { return std::move(values_.front()); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(number_integer_t value) { return add(value); }
  bool number_unsigned(number_unsigned_t value) { return add(value); }
  bool number_float(number_float_t value, const string_t&) { return add(value); }
  bool string(string_t& value) { return add(value); }
  bool binary(binary_t&) { return false; }  // not in JSON text
  bool key(string_t& name) {
    names_.push_back(name);
    return true;
  }
  bool start_object(std::size_t) { return open(); }
  bool start_array(std::size_t) { return open(); }
  bool end_array() {
    const auto first = values_.begin() + static_cast<std::ptrdiff_t>(open_.back().values);
    Json::array_t array(std::make_move_iterator(first), std::make_move_iterator(values_.end()));
    return close(std::move(array));
  }
  bool end_object() {
    const auto [first_name, first_value] = open_.back();
    check_names(first_name);
    Json::object_t object;
    object.reserve(names_.size() - first_name);
    for (std::size_t i = first_name; i < names_.size(); ++i) {
      object.emplace_back(std::move(names_[i]), std::move(values_[first_value + i - first_name]));
    }
    return close(std::move(object));
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing value - invalid
    // literal; last read: '...'": only the middle, because the end can be as long as the file.
    std::string_view reason = error.what();
    reason.remove_prefix(std::min(reason.find("while parsing"), reason.size()));
    reason = reason.substr(0, reason.find("; last read"));
    fail<FormatError>(who_, "is not valid JSON at byte " + std::to_string(position) + ": " +
                                (reason.empty() ? "a number is out of range" : std::string(reason)));
  }

 private:
  struct Start {
    std::size_t names, values;
  };

  template <class T>
  bool add(const T& value) {
    count();
    values_.emplace_back(value);
    return true;
  }
  bool open() {
    count();
    if (open_.size() == limits_.depth) {
      fail<FormatError>(who_, "its JSON nests deeper than " + std::to_string(limits_.depth) + " levels");
    }
    open_.push_back({names_.size(), values_.size()});
    return true;
  }
  template <class T>
  bool close(T&& container) {
    names_.resize(open_.back().names);
    values_.resize(open_.back().values);
    open_.pop_back();
    values_.emplace_back(std::move(container));
    return true;
  }
  void count() {
    if (++count_ > limits_.values) {
      fail<FormatError>(who_, "its JSON has more than " + std::to_string(limits_.values) + " values");
    }
  }
  /// Finds duplicates by sorting, so that no choice of names can make it slow.
  void check_names(std::size_t first) {
    sorted_.assign(names_.begin() + static_cast<std::ptrdiff_t>(first), names_.end());
    const auto rising = [&] { return std::adjacent_find(sorted_.begin(), sorted_.end(), std::greater_equal<>()); };
    if (rising() == sorted_.end()) return;
    std::sort(sorted_.begin(), sorted_.end());
    const auto twice = rising();
    if (twice != sorted_.end()) fail<FormatError>(who_, "the name " + shown(*twice) + " occurs twice");
  }

  std::string_view who_;
  JsonLimits limits_;
  std::vector<std::string> names_;
  std::vector<Json> values_;
  std::vector<Start> open_;
  std::vector<std::string_view> sorted_;
  std::size_t count_ = 0;
};

LORA_IO_INLINE Json parse_json(std::string_view who, std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.bytes) {
    fail<FormatError>(who, "its JSON has " + std::to_string(text.size()) + " bytes, expected at most " +
                               std::to_string(limits.bytes));
  }
  if (text.starts_with("version https://git-lfs")) {
    fail<FormatError>(who, "is the pointer of Git LFS to a file, which git lfs pull fetches");
  }
  // The parser takes a NUL for the end of the text, and skips a byte order mark.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
    fail<FormatError>(who, "is not valid JSON at byte " + std::to_string(nul + 1) + ": a NUL");
  }
  if (text.starts_with("\xef")) {
    fail<FormatError>(who, "is not valid JSON at byte 1: a byte order mark, or text outside of a string");
  }
  JsonTree tree(who, limits);
  Json::sax_parse(text.begin(), text.end(), &tree);
  return tree.root();
}

LORA_IO_INLINE std::string found_in_json(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string()) return "a string";
  if (value.is_number_float()) return "the number " + in_quotes(value.dump());
  if (value.is_number()) return value.is_number_unsigned() ? "a number" : "a negative number";
  return value.dump();
}

LORA_IO_INLINE Json json_number(double value) {
  if (!std::isfinite(value)) fail<ValueError>("JSON", "a number is not finite");
  return value;
}

LORA_IO_INLINE std::optional<std::string> json_string(std::string_view text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

LORA_IO_INLINE Json sorted_by_name(Json value) {
  if (value.is_object()) {
    auto& members = value.get_ref<Json::object_t&>();
    auto* const all = members.data();  // nlohmann's object that keeps its order is a vector of pairs
    const auto positions =
        sorted_positions(members.size(), [&](std::size_t a, std::size_t b) { return all[a].first < all[b].first; });
    Json::object_t sorted;
    sorted.reserve(members.size());
    for (const std::size_t k : positions) sorted.emplace_back(all[k].first, sorted_by_name(std::move(all[k].second)));
    members = std::move(sorted);
  } else if (value.is_array()) {
    for (Json& member : value) member = sorted_by_name(std::move(member));
  }
  return value;
}

LORA_IO_INLINE std::string python_json(const Json& value) {
  try {
    return sorted_by_name(value).dump(2, ' ', true);
  } catch (const Json::exception&) {
    fail<ValueError>("JSON", "a text is not UTF-8");
  }
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
