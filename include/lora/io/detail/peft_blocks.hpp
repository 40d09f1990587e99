#pragma once
/// Which layers of a file layers_to_transform means.
///
/// Of a name with several numbers, such as layers.1.experts.3.fc, PEFT 0.7.1 and 0.21.2 take the first, 0.14 and 0.18
/// the last; and only 0.21.2 finds a layers_pattern at the start of a name. Where these rules differ, the file decides,
/// which was written by one of them: a layer that it has factors for was meant.
///
/// Source: peft 0.7.1, 0.14.0, 0.18.0 and 0.21.2, check_target_module_exists.

#include "lora/io/detail/peft_describe.hpp"
#include "lora/io/detail/peft_layers.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/model/match.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Whether by some rule, and by every rule, a layer is in one of these blocks.
struct InBlocks {
  bool some = false, every = false;
};

inline InBlocks in_blocks(std::string_view path, const Targets& targets, const Caller& who) {
  InBlocks result;
  bool certain = true;
  bool found = false;
  for (std::size_t dot = path.find('.'); dot != path.npos; dot = path.find('.', dot + 1)) {
    const std::size_t end = path.find('.', dot + 1);
    if (end == path.npos) break;  // a name does not end with the number of its block
    const std::string_view digits = path.substr(dot + 1, end - dot - 1);
    const bool number = !digits.empty() && digits.size() < 10 &&
                        std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!number) continue;
    const std::string_view before = path.substr(0, dot);
    bool allowed = targets.block_names.empty() && before.find('.') != before.npos;
    for (const std::string& name : targets.block_names) {
      if (!Pattern("(?:.*\\.)?(?:" + name + ")", who).matches(before)) continue;
      allowed = true;
      certain = certain && Pattern(".*\\.(?:" + name + ")", who).matches(before);
    }
    if (!allowed) continue;
    Index value = 0;
    for (const char c : digits) value = 10 * value + (c - '0');
    const auto& chosen = targets.blocks;
    const bool in = std::find(chosen.begin(), chosen.end(), value) != chosen.end();
    result.some = result.some || in;
    result.every = in && (result.every || !found);
    found = true;
  }
  result.every = result.every && certain;
  return result;
}

/// peft_matches for a file; has_factors(path) is whether it has factors of a layer.
template <class T, class F>
std::vector<ModuleMatch> peft_matches_in_file(const T& model, const PeftConfig& config, const Caller& who,
                                              F&& has_factors) {
  if (config.targets.blocks.empty()) return peft_matches(model, config, who);
  PeftConfig all = config;
  all.targets.blocks.clear();
  all.targets.block_names.clear();
  const auto& names = config.targets.modules.names();
  std::vector<std::string> chosen;
  for (const ModuleMatch& match : peft_matches(model, all, who)) {
    if (match.role != ModuleMatch::Role::adapter) continue;
    const bool whole = std::find(names.begin(), names.end(), match.path) != names.end();
    const InBlocks in = in_blocks(match.path, config.targets, who);
    if (whole || in.every || (in.some && has_factors(match.path))) chosen.push_back(match.path);
  }
  if (chosen.empty()) fail<NameError>(who, "layers_to_transform leaves no layer of the model");
  all.targets.modules = ModuleNames(pattern_for(chosen));
  return peft_matches(model, all, who);
}

}  // namespace lora::inline LORA_ABI::detail
