#pragma once
/// Selects layers of a model, by a list of names or one pattern.

#include "lora/abi.hpp"

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

///   {"q_proj", "v_proj"}        names: a layer's whole name, or its end after a dot. "proj" does not match "q_proj"
///   ".*\\.(q_proj|v_proj)"      a regular expression for the whole name (model/pattern.hpp)
///   "all-linear"                every layer that takes adapters
///
/// Source: PEFT's target_modules, which makes the same distinction between a list and a string.
class ModuleNames {
 public:
  ModuleNames() = default;
  ModuleNames(std::initializer_list<std::string> names) : names_(names) {}
  ModuleNames(std::vector<std::string> names) : names_(std::move(names)) {}  // NOLINT(google-explicit-constructor)
  ModuleNames(std::string pattern) : pattern_(std::move(pattern)) {}         // NOLINT(google-explicit-constructor)
  ModuleNames(const char* pattern) : ModuleNames(std::string(pattern)) {}    // NOLINT(google-explicit-constructor)

  bool empty() const { return names_.empty() && pattern_.empty(); }
  bool is_pattern() const { return !pattern_.empty(); }
  const std::string& pattern() const& { return pattern_; }
  const std::string& pattern() const&& = delete;
  const std::vector<std::string>& names() const& { return names_; }
  const std::vector<std::string>& names() const&& = delete;

  bool operator==(const ModuleNames&) const = default;

 private:
  std::vector<std::string> names_;
  std::string pattern_;
};

}  // namespace lora::inline LORA_ABI
