#pragma once
// What a kind of adapter trains and what it gives to files must be the same.

#include "lora/adapters/any_adapter.hpp"
#include "lora/core/error.hpp"

#include <algorithm>
#include <string>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Throws ConfigError unless `describe` of the adapter's kind lists all its parameters, and the settings that its
/// config has: what is missing would be lost in a file, and the loaded adapter would compute something else. A
/// parameter is known by where its elements are, because visit and describe have names of their own for it.
template <class S>
void check_described(const Caller& who, const std::string& path, const AnyAdapter<S>& adapter) {
  const auto refuse = [&](const std::string& text) {
    fail<ConfigError>(who, "layer " + in_quotes(path) + ": the kind " + std::string(adapter.peft_type()) + " " + text);
  };
  const Path root;
  std::vector<const S*> described;
  adapter.tensors([&](const AdapterTensor<const S>& tensor) { described.push_back(tensor.value.data()); });
  AnyAdapter<S>::visit(adapter, [&](const Name& name, const auto& part) {
    if constexpr (ParameterLike<decltype(part)>) {
      if (part.value.size() == 0) return;
      for (const S* const data : described) {
        if (data == part.value.data()) return;
      }
      refuse("has the parameter " + in_quotes(Path(&root, name).str()) +
             " in visit, which files would lose, expected it among the tensors that describe lists");
    }
  });
  const auto configured = adapter.config_settings();
  if (!configured) return;
  const auto settings = adapter.settings();
  const auto has = [&](const std::string& name) {
    return std::any_of(settings.begin(), settings.end(), [&](const auto& setting) { return setting.name == name; });
  };
  for (const std::string& name : *configured) {
    if (!has(name)) {
      refuse("has a config with the setting " + in_quotes(name) +
             ", which files would lose, expected it among the settings that describe lists");
    }
  }
  for (const AdapterSetting& setting : settings) {
    if (std::find(configured->begin(), configured->end(), setting.name) != configured->end()) continue;
    refuse("describes the setting " + in_quotes(setting.name) +
           ", expected one of those that settings of its config lists, which read a file");
  }
}

}  // namespace lora::inline LORA_ABI::detail
