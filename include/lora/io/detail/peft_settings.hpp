#pragma once
/// Reads single settings of an adapter_config.json, each as the required type.

#include "lora/core/scalar.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/file_error.hpp"
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

/// The value of a setting, for a message.
std::string shown_setting(const Json& value);

/// Reads the settings of one file; every message names the key, what it is and what was expected. A null is the absence
/// of a text, a list, names or a flag. It is no number and no table, as in PEFT: serde_json writes NaN as null.
class PeftSettings {
 public:
  PeftSettings(std::string_view who, const Json& root) : who_(who), root_(root) {}

  /// The value of a key, or nullptr if it is absent or null.
  const Json* find(const char* key) const;
  std::optional<std::string> text(const char* key) const;
  bool flag(const char* key, bool otherwise) const;
  Index integer(const char* key, Index otherwise) const;
  double number(const char* key, double otherwise) const;
  /// A list of strings, or one string, of which an empty one is none.
  std::vector<std::string> texts(const char* key) const;
  /// A list of strings; one string is refused, of which PEFT would take each letter for a name.
  std::vector<std::string> list(const char* key) const;
  std::vector<Index> integers(const char* key) const;
  ModuleNames names(const char* key) const;
  std::vector<std::pair<std::string, Index>> integer_table(const char* key) const;
  std::vector<std::pair<std::string, double>> number_table(const char* key) const;

  [[noreturn]] void refuse(const char* key, const Json& found, const std::string& expected) const;

 private:
  std::string text_of(const char* key, const Json& value, const std::string& expected) const;
  Index integer_of(const char* key, const Json& value) const;
  double number_of(const char* key, const Json& value) const;
  template <class T, class F>
  std::vector<std::pair<std::string, T>> table(const char* key, F&& read) const {
    const auto value = root_.find(key);
    std::vector<std::pair<std::string, T>> result;
    if (value == root_.end()) return result;
    if (!value->is_object()) refuse(key, *value, "an object of patterns and numbers");
    for (const auto& [name, item] : value->get_ref<const Json::object_t&>()) result.emplace_back(name, read(item));
    return result;
  }

  std::string_view who_;
  const Json& root_;
};

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::string shown_setting(const Json& value) {
  if (value.is_string()) return shown(value.get_ref<const std::string&>());
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  return value.is_object() ? "an object" : value.dump();
}

LORA_IO_INLINE const Json* PeftSettings::find(const char* key) const {
  const auto found = root_.find(key);
  return found != root_.end() && !found->is_null() ? &*found : nullptr;
}

LORA_IO_INLINE std::optional<std::string> PeftSettings::text(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  return text_of(key, *value, "a string or null");
}

LORA_IO_INLINE bool PeftSettings::flag(const char* key, bool otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) refuse(key, *value, "true or false");
  return value->get<bool>();
}

LORA_IO_INLINE Index PeftSettings::integer(const char* key, Index otherwise) const {
  const auto found = root_.find(key);
  return found == root_.end() ? otherwise : integer_of(key, *found);
}

LORA_IO_INLINE double PeftSettings::number(const char* key, double otherwise) const {
  const auto found = root_.find(key);
  return found == root_.end() ? otherwise : number_of(key, *found);
}

LORA_IO_INLINE std::vector<std::string> PeftSettings::texts(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr || *value == Json("")) return {};
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) refuse(key, *value, "a string, a list of strings or null");
  return list(key);
}

LORA_IO_INLINE std::vector<std::string> PeftSettings::list(const char* key) const {
  const Json* value = find(key);
  std::vector<std::string> result;
  if (value == nullptr || *value == Json("")) return result;
  if (!value->is_array()) refuse(key, *value, "a list of strings or null");
  for (const Json& item : *value) result.push_back(text_of(key, item, "a list of strings"));
  return result;
}

LORA_IO_INLINE std::vector<Index> PeftSettings::integers(const char* key) const {
  const Json* value = find(key);
  std::vector<Index> result;
  if (value == nullptr) return result;
  if (!value->is_array()) return {integer_of(key, *value)};
  for (const Json& item : *value) result.push_back(integer_of(key, item));
  return result;
}

LORA_IO_INLINE ModuleNames PeftSettings::names(const char* key) const {
  const Json* value = find(key);
  if (value != nullptr && value->is_string()) return ModuleNames(value->get<std::string>());
  return ModuleNames(texts(key));
}

LORA_IO_INLINE std::vector<std::pair<std::string, Index>> PeftSettings::integer_table(const char* key) const {
  return table<Index>(key, [&](const Json& item) { return integer_of(key, item); });
}

LORA_IO_INLINE std::vector<std::pair<std::string, double>> PeftSettings::number_table(const char* key) const {
  return table<double>(key, [&](const Json& item) { return number_of(key, item); });
}

LORA_IO_INLINE void PeftSettings::refuse(const char* key, const Json& found, const std::string& expected) const {
  fail<FormatError>(who_, std::string(key) + " is " + shown_setting(found) + ", expected " + expected);
}

LORA_IO_INLINE std::string PeftSettings::text_of(const char* key, const Json& value,
                                                 const std::string& expected) const {
  if (!value.is_string()) refuse(key, value, expected);
  return value.get<std::string>();
}

LORA_IO_INLINE Index PeftSettings::integer_of(const char* key, const Json& value) const {
  constexpr double most = std::numeric_limits<std::int32_t>::max();
  if (!value.is_number_integer() || std::abs(value.get<double>()) > most) {
    refuse(key, value, "an integer of 32 bits");
  }
  return value.get<Index>();
}

LORA_IO_INLINE double PeftSettings::number_of(const char* key, const Json& value) const {
  if (!value.is_number()) refuse(key, value, "a finite number");
  return value.get<double>();
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
