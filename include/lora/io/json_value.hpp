#pragma once
/// A small JSON text as a tree, and back to text as Python writes it.
///
///   json.dumps(value, indent=2, sort_keys=True)
///
/// Numbers keep the text that they were written with. Source: CPython, Lib/json/encoder.py.

#include "lora/io/json_reader.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

struct JsonValue {
  enum class Kind { null, boolean, integer, real, string, array, object };
  Kind kind = Kind::null;
  std::string text = {};                ///< of a string: what it says; of a number, true and false: as written
  double number = 0;                    ///< of a number
  std::vector<JsonValue> items = {};    ///< of an array or object
  std::vector<std::string> names = {};  ///< of an object: one for each item

  /// Null if this is no object or has nothing of this name.
  const JsonValue* find(std::string_view name) const {
    const auto found = std::find(names.begin(), names.end(), name);
    return found == names.end() ? nullptr : &items[static_cast<std::size_t>(found - names.begin())];
  }
};

/// As Python's repr: the shortest text that reads back as the same number, with an exponent below 1e-4 and from 1e16.
inline std::string python_float(double number) {
  if (!std::isfinite(number)) detail::fail<ValueError>("JSON", "a number is not finite");
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, std::chars_format::scientific);
  std::string_view text(buffer.data(), static_cast<std::size_t>(end.ptr - buffer.data()));
  std::string result;
  if (text.starts_with('-')) {
    result = "-";
    text.remove_prefix(1);
  }
  // d.ddde[+-]dd, without a point if there is one digit
  const std::size_t mark = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + mark + (text[mark + 1] == '+' ? 2 : 1), text.data() + text.size(), exponent);
  std::string digits(text.substr(0, mark));
  std::erase(digits, '.');
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    result += digits.substr(0, 1) + (count > 1 ? "." + digits.substr(1) : "") + (exponent < 0 ? "e-" : "e+");
    const std::string power = std::to_string(std::abs(exponent));
    return result + (power.size() < 2 ? "0" : "") + power;
  }
  if (exponent < 0) return result + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1) {
    return result + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
  }
  return result + digits.substr(0, static_cast<std::size_t>(exponent) + 1) + "." +
         digits.substr(static_cast<std::size_t>(exponent) + 1);
}

/// Appends the text in quotes with everything beyond printable ASCII escaped. It has to be UTF-8.
inline void append_ascii_json_string(std::string& json, std::string_view text) {
  constexpr std::string_view hex = "0123456789abcdef";
  const auto escape = [&](std::uint32_t unit) {
    json += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) json += hex[unit >> shift & 15];
  };
  json += '"';
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i++]);
    if (first >= 0x80) {
      std::uint32_t code = first < 0xe0 ? first & 0x1fu : first < 0xf0 ? first & 0x0fu : first & 0x07u;
      for (int more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3; more > 0 && i < text.size(); --more) {
        code = code << 6 | (static_cast<unsigned char>(text[i++]) & 0x3fu);
      }
      if (code < 0x10000) {
        escape(code);
      } else {
        escape(0xd800 + ((code - 0x10000) >> 10));
        escape(0xdc00 + ((code - 0x10000) & 0x3ff));
      }
      continue;
    }
    switch (first) {
      case '"': json += "\\\""; break;
      case '\\': json += "\\\\"; break;
      case '\b': json += "\\b"; break;
      case '\t': json += "\\t"; break;
      case '\n': json += "\\n"; break;
      case '\f': json += "\\f"; break;
      case '\r': json += "\\r"; break;
      default:
        if (first < 0x20 || first == 0x7f) {
          escape(first);
        } else {
          json += static_cast<char>(first);
        }
    }
  }
  json += '"';
}

/// The value as it stands `level` objects or arrays deep.
inline std::string python_json(const JsonValue& value, std::size_t level = 0) {
  using Kind = JsonValue::Kind;
  std::string json;
  if (value.kind == Kind::null) return "null";
  if (value.kind == Kind::string) {
    append_ascii_json_string(json, value.text);
    return json;
  }
  if (value.kind != Kind::array && value.kind != Kind::object) return value.text;
  const bool object = value.kind == Kind::object;
  if (value.items.empty()) return object ? "{}" : "[]";
  std::vector<std::size_t> order(value.items.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (object) {
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return value.names[a] < value.names[b]; });
  }
  json += object ? '{' : '[';
  for (std::size_t k = 0; k < order.size(); ++k) {
    json += (k > 0 ? ",\n" : "\n") + std::string(2 * (level + 1), ' ');
    if (object) {
      append_ascii_json_string(json, value.names[order[k]]);
      json += ": ";
    }
    json += python_json(value.items[order[k]], level + 1);
  }
  json.append(1, '\n').append(2 * level, ' ');
  json += object ? '}' : ']';
  return json;
}

namespace detail {

class JsonTreeEvents final : public JsonEvents {
 public:
  JsonValue root;

  void begin_object() override { open({.kind = Kind::object}); }
  void key(std::string_view name) override { open_.back()->names.emplace_back(name); }
  void end_object() override { open_.pop_back(); }
  void begin_array() override { open({.kind = Kind::array}); }
  void end_array() override { open_.pop_back(); }
  void string(std::string_view value) override { add({.kind = Kind::string, .text = std::string(value)}); }
  void unsigned_integer(std::uint64_t value) override { integer(value); }
  void negative_integer(std::int64_t value) override { integer(value); }
  void real(double value, std::string_view text) override {
    const bool whole = text.find_first_not_of("-0123456789") == text.npos;
    add({.kind = whole ? Kind::integer : Kind::real, .text = std::string(text), .number = value});
  }
  void boolean(bool value) override { add({.kind = Kind::boolean, .text = value ? "true" : "false"}); }
  void null() override { add({}); }

 private:
  using Kind = JsonValue::Kind;

  void integer(auto value) {
    add({.kind = Kind::integer, .text = std::to_string(value), .number = static_cast<double>(value)});
  }
  JsonValue& add(JsonValue value) {
    if (open_.empty()) return root = std::move(value);
    return open_.back()->items.emplace_back(std::move(value));
  }
  // What is pointed to stays where it is: only the innermost grows, and what is inside it is closed then.
  void open(JsonValue value) { open_.push_back(&add(std::move(value))); }

  std::vector<JsonValue*> open_;
};

}  // namespace detail

/// Throws FormatError as read_json does. For texts of a few megabytes: every value is an object of about 100 bytes.
inline JsonValue read_json_value(std::string_view who, std::string_view text, const JsonLimits& limits) {
  detail::JsonTreeEvents events;
  read_json(who, text, events, limits);
  return std::move(events.root);
}

}  // namespace lora::inline LORA_ABI
