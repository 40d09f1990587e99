#pragma once
/// Reads an object of a tokenizer.json; every message names the file, the place in it, what is there and what was
/// expected. What is not asked for is refused by name.

#include "lora/core/scalar.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/file_error.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace lora::inline LORA_ABI::detail {

class JsonPart {
 public:
  /// Throws FormatError unless the value is an object. `where` is the path to it, "" for the whole file.
  JsonPart(std::string_view who, std::string where, const Json& value)
      : who_(who), where_(std::move(where)), value_(value) {
    if (!value.is_object()) {
      fail<FormatError>(who_,
                        (where_.empty() ? "" : where_ + " ") + "is " + found_in_json(value) + ", expected an object");
    }
  }

  /// Throws ConfigError for the first key that is none of these and not null: nobody knows what it asks for.
  void allow(std::initializer_list<std::string_view> keys) const {
    for (const auto& [key, value] : value_.get_ref<const Json::object_t&>()) {
      if (value.is_null() || std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
      fail<ConfigError>(who_, path(shown(key)) + " is not supported");
    }
  }
  /// The value of the key `type`. Throws ConfigError unless it is one that is supported.
  const std::string& expect_type(std::initializer_list<std::string_view> supported) const {
    const std::string& type = text("type");
    if (std::find(supported.begin(), supported.end(), type) == supported.end()) {
      std::string names;
      for (const std::string_view name : supported) names += (names.empty() ? "" : " or ") + in_quotes(name);
      refuse_unsupported("type", names);
    }
    return type;
  }
  /// Throws ConfigError `file: where.key is ..., which is not supported; ... is`.
  [[noreturn]] void refuse_unsupported(std::string_view key, const std::string& supported) const {
    fail<ConfigError>(who_, path(key) + " is " + is(at(key, "")) + ", which is not supported; " + supported + " is");
  }

  /// The value of a key, or nullptr if it is absent or null.
  const Json* find(std::string_view key) const {
    const auto found = value_.find(std::string(key));
    return found != value_.end() && !found->is_null() ? &*found : nullptr;
  }
  const Json& at(std::string_view key, const char* expected) const {
    const Json* const value = find(key);
    if (value == nullptr) fail<FormatError>(who_, path(key) + " is missing, expected " + expected);
    return *value;
  }
  JsonPart object(std::string_view key) const { return JsonPart(who_, path(key), at(key, "an object")); }
  /// Calls f(element, its place) for each element of an array.
  template <class F>
  void for_each(std::string_view key, F&& f) const {
    const Json& array = at(key, "an array");
    if (!array.is_array()) refuse(key, array, "an array");
    for (std::size_t k = 0; k < array.size(); ++k) f(array[k], path(key) + "[" + std::to_string(k) + "]");
  }
  const std::string& text(std::string_view key) const {
    const Json& value = at(key, "a string");
    if (!value.is_string()) refuse(key, value, "a string");
    return value.get_ref<const std::string&>();
  }
  bool flag(std::string_view key) const {
    const Json& value = at(key, "true or false");
    if (!value.is_boolean()) refuse(key, value, "true or false");
    return value.get<bool>();
  }
  int integer(std::string_view key) const {
    constexpr const char* expected = "an integer from 0 to 2147483647";
    const Json& value = at(key, expected);
    if (!is_integer(value)) refuse(key, value, expected);
    return value.get<int>();
  }
  static bool is_integer(const Json& value) {
    return value.is_number_unsigned() && value.get<std::uint64_t>() <= std::numeric_limits<std::int32_t>::max();
  }

  std::string path(std::string_view key) const {
    return where_.empty() ? std::string(key) : where_ + "." + std::string(key);
  }
  /// Throws FormatError `file: where.key is ..., expected ...`.
  [[noreturn]] void refuse(std::string_view key, const Json& found, const std::string& expected) const {
    fail<FormatError>(who_, path(key) + " is " + is(found) + ", expected " + expected);
  }

 private:
  static std::string is(const Json& found) {
    return found.is_string()           ? shown(found.get_ref<const std::string&>())
           : found.is_number_integer() ? found.dump()
                                       : found_in_json(found);
  }

  std::string_view who_;
  std::string where_;
  const Json& value_;
};

}  // namespace lora::inline LORA_ABI::detail
