#pragma once
/// Single settings of an adapter_config.json, each as the type that it has to have.

#include "lora/core/scalar.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/json_value.hpp"
#include "lora/model/module_names.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Reads the settings of one file; every message names the key, what it is and what was expected.
class PeftSettings {
 public:
  PeftSettings(std::string_view who, const JsonValue& root) : who_(who), root_(root) {}

  /// Of a key that is there and not null, else null.
  const JsonValue* find(const char* key) const {
    const JsonValue* value = root_.find(key);
    return value != nullptr && value->kind != Kind::null ? value : nullptr;
  }
  std::optional<std::string> text(const char* key) const {
    const JsonValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    return text_of(key, *value, "a string or null");
  }
  bool flag(const char* key, bool otherwise) const {
    const JsonValue* value = find(key);
    if (value == nullptr) return otherwise;
    if (value->kind != Kind::boolean) refuse(key, *value, "true or false");
    return value->text == "true";
  }
  Index integer(const char* key, Index otherwise) const {
    const JsonValue* value = find(key);
    return value == nullptr ? otherwise : integer_of(key, *value);
  }
  double number(const char* key, double otherwise) const {
    const JsonValue* value = find(key);
    return value == nullptr ? otherwise : number_of(key, *value);
  }
  /// A list of strings, or one string.
  std::vector<std::string> texts(const char* key) const {
    const JsonValue* value = find(key);
    std::vector<std::string> result;
    if (value == nullptr) return result;
    if (value->kind == Kind::string) return {value->text};
    if (value->kind != Kind::array) refuse(key, *value, "a string, a list of strings or null");
    for (const JsonValue& item : value->items) result.push_back(text_of(key, item, "a list of strings"));
    return result;
  }
  std::vector<Index> integers(const char* key) const {
    const JsonValue* value = find(key);
    std::vector<Index> result;
    if (value == nullptr) return result;
    if (value->kind != Kind::array) return {integer_of(key, *value)};
    for (const JsonValue& item : value->items) result.push_back(integer_of(key, item));
    return result;
  }
  ModuleNames names(const char* key) const {
    const JsonValue* value = find(key);
    if (value != nullptr && value->kind == Kind::string) return ModuleNames(value->text);
    return ModuleNames(texts(key));
  }
  std::vector<std::pair<std::string, Index>> integer_table(const char* key) const {
    return table<Index>(key, [&](const JsonValue& item) { return integer_of(key, item); });
  }
  std::vector<std::pair<std::string, double>> number_table(const char* key) const {
    return table<double>(key, [&](const JsonValue& item) { return number_of(key, item); });
  }

  [[noreturn]] void refuse(const char* key, const JsonValue& found, const std::string& expected) const {
    const bool scalar = found.kind != Kind::array && found.kind != Kind::object;
    const std::string what = found.kind == Kind::string  ? shown(found.text)
                             : scalar                    ? python_json(found).substr(0, 100)
                             : found.kind == Kind::array ? "a list"
                                                         : "an object";
    fail<FormatError>(who_, std::string(key) + " is " + what + ", expected " + expected);
  }

 private:
  using Kind = JsonValue::Kind;

  std::string text_of(const char* key, const JsonValue& value, const std::string& expected) const {
    if (value.kind != Kind::string) refuse(key, value, expected);
    return value.text;
  }
  Index integer_of(const char* key, const JsonValue& value) const {
    constexpr double most = std::numeric_limits<std::int32_t>::max();
    if (value.kind != Kind::integer || std::abs(value.number) > most) refuse(key, value, "an integer of 32 bits");
    return static_cast<Index>(value.number);
  }
  double number_of(const char* key, const JsonValue& value) const {
    const bool number = value.kind == Kind::integer || value.kind == Kind::real;
    if (!number || !std::isfinite(value.number)) refuse(key, value, "a finite number");
    return value.number;
  }
  template <class T, class F>
  std::vector<std::pair<std::string, T>> table(const char* key, F&& read) const {
    const JsonValue* value = find(key);
    std::vector<std::pair<std::string, T>> result;
    if (value == nullptr) return result;
    if (value->kind != Kind::object) refuse(key, *value, "an object of patterns and numbers");
    for (std::size_t i = 0; i < value->items.size(); ++i) result.emplace_back(value->names[i], read(value->items[i]));
    return result;
  }

  std::string_view who_;
  const JsonValue& root_;
};

}  // namespace lora::inline LORA_ABI::detail
