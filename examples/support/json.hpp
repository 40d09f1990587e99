#pragma once
/// A flat JSON object, one member a line, in the order in which they were set; lists of numbers are members too.

#include <cmath>
#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "text.hpp"

namespace examples {

/// Text as a JSON string with its quotes (RFC 8259, section 7). The text is UTF-8.
inline std::string json_string(std::string_view text) {
  constexpr std::string_view hex = "0123456789abcdef";
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      result += {'\\', c};
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\t') {
      result += "\\t";
    } else if (byte < 0x20) {
      result += {'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]};
    } else {
      result += c;
    }
  }
  return result + '"';
}

namespace detail {

/// A value as JSON: a bool, an integer, a floating-point number (written so that it reads back as the same number; null
/// if it is not finite, as JSON has no other way), text, or a std::vector of these.
template <class Value>
std::string json_value(const Value& value) {
  if constexpr (std::same_as<Value, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_arithmetic_v<Value>) {
    static_assert(!std::same_as<Value, char>, "a single character: pass it as a string");
    if constexpr (std::floating_point<Value>) {
      if (!std::isfinite(value)) return "null";
    }
    return shortest(value);
  } else if constexpr (std::convertible_to<Value, std::string_view>) {
    return json_string(value);
  } else {
    static_assert(requires { value.begin(); }, "JsonObject::set takes a bool, a number, text or a list of these");
    std::string text = "[";
    for (const auto& element : value) {  // libc++'s std::vector<bool> has elements that are no bools
      text += (text.size() == 1 ? "" : ", ") + json_value<typename Value::value_type>(element);
    }
    return text + "]";
  }
}

}  // namespace detail

class JsonObject {
 public:
  /// Adds a member, or replaces the one of that name. The value is a bool, a number, text, or a std::vector of these.
  template <class Value>
  JsonObject& set(std::string_view name, const Value& value) {
    std::string text = detail::json_value(value);
    for (auto& [known, old] : members_) {
      if (known == name) {
        old = std::move(text);
        return *this;
      }
    }
    members_.emplace_back(name, std::move(text));
    return *this;
  }

  std::string text() const {
    std::string result = "{";
    for (const auto& [name, value] : members_) {
      result += (result.size() == 1 ? "\n  " : ",\n  ") + json_string(name) + ": " + value;
    }
    return result + (members_.empty() ? "}\n" : "\n}\n");
  }

 private:
  std::vector<std::pair<std::string, std::string>> members_;
};

}  // namespace examples
