#pragma once
/// What a PEFT config gives to each layer of a model.
///
/// The rules are those of model/match.hpp, with two exceptions. A config for one type of model lists names that only
/// some of its models have, so a name that fits no layer is ignored. And in a name with several numbers, such as
/// layers.1.experts.3.fc, the block number is the first for PEFT 0.7.1 and 0.21.2, the last for 0.14 and 0.18, and only
/// 0.21.2 finds a layers_pattern at the start of a name. Where these differ, the file, which was written by one of
/// them, decides: a layer for which it has factors is selected.
///
/// Source: peft 0.7.1, 0.14.0, 0.18.0 and 0.21.2, check_target_module_exists.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/model/match.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// The names that PEFT adds to modules_to_save for a task_type, whatever the config says.
std::vector<std::string_view> modules_of_task(std::string_view task);

/// Whether layers_to_transform has the block of a layer: by every release of PEFT, by some of them, or by none.
enum class InBlocks { always, sometimes, never };

/// The patterns for what is before a block number, parsed: as PEFT of today has them, and as all releases have them.
class BlockNames {
 public:
  BlockNames(const Targets& targets, const Caller& who);
  /// Whether a number after `before` may be that of a block; clears `every` if not for all releases.
  bool allow(std::string_view before, bool& every) const;

 private:
  struct Name {
    Pattern today, always;
    bool clear;
  };
  std::vector<Name> patterns_;
  PatternWork work_;
};

InBlocks in_blocks(std::string_view path, const Targets& targets, const BlockNames& names);

/// `"q_proj", "v_proj" and 3 more`, for messages.
inline std::string name_list(const std::vector<std::string>& names) {
  constexpr std::size_t max_shown = 10;
  std::string list;
  for (std::size_t k = 0; k < names.size() && k < max_shown; ++k) list += (k > 0 ? ", " : "") + shown(names[k]);
  if (names.size() > max_shown) list += " and " + std::to_string(names.size() - max_shown) + " more";
  return list;
}

/// What the config gives to every layer that takes adapters, in listing order. has_factors(path) tells whether the file
/// has factors of a layer, and decides if the config does not: for a null target_modules, or where releases differ.
/// has_parameter(path) tells whether it has the values of a parameter that belongs to no layer, such as an embedding.
/// Throws NameError if the config gives no layer an adapter, and what match_layers throws.
template <class C>
std::vector<ModuleMatch> match_peft(const ModelPaths& model, const C& config, const Targets& targets, const Caller& who,
                                    FunctionRef<bool(const std::string& path)> has_factors,
                                    FunctionRef<bool(const std::string& path)> has_parameter) {
  const BlockNames block_names(targets, who);
  const auto left_out = [&](const std::string& path, bool whole) -> std::string {
    InBlocks in = InBlocks::always;
    if (targets.modules.empty()) {
      in = InBlocks::sometimes;
    } else if (!targets.blocks.empty() && !whole) {
      in = in_blocks(path, targets, block_names);
    }
    const bool adapted = in == InBlocks::always || (in == InBlocks::sometimes && has_factors(path));
    return adapted ? "" : "neither the config nor the file has it";
  };
  std::vector<ModuleMatch> matches = match_layers(model, config, targets, who, peft_words, left_out);
  check_listing(model, targets, who, has_parameter);
  const auto& names = targets.modules.names();
  const bool some_fit = std::any_of(matches.begin(), matches.end(), [&](const ModuleMatch& match) {
    return std::any_of(names.begin(), names.end(), [&](const auto& name) { return is_end_of(name, match.path); });
  });
  if (!names.empty() && !some_fit) {
    fail<NameError>(who, "none of its target_modules, " + name_list(names) + ", is a layer of the model, which has " +
                             layer_list(matches));
  }
  const bool some_adapted = std::any_of(matches.begin(), matches.end(), [](const ModuleMatch& match) {
    return match.role == ModuleMatch::Role::adapter;
  });
  if (!targets.blocks.empty() && !some_adapted) {
    fail<NameError>(who, "layers_to_transform leaves no layer of the model");
  }
  if (!targets.modules.empty() && !some_adapted) {
    const auto& any = matches.front();
    fail<NameError>(who, "it gives no layer of the model an adapter; " + any.path + ", for example: " + any.reason);
  }
  return matches;
}

/// Why no factors of the layer `path` are expected, and what to do, for a file that has them.
std::string why_no_factors(std::string_view path, const std::map<std::string_view, const ModuleMatch*>& matches,
                           const Targets& targets);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::vector<std::string_view> modules_of_task(std::string_view task) {
  if (task == "SEQ_CLS" || task == "TOKEN_CLS") return {"classifier", "score"};
  if (task == "QUESTION_ANS") return {"qa_outputs"};
  return {};
}

LORA_IO_INLINE InBlocks in_blocks(std::string_view path, const Targets& targets, const BlockNames& names) {
  bool some = false, every = true, found = false;
  for_each_number(path, [&](std::string_view before, Index value) {
    if (!names.allow(before, every)) return false;
    const bool in = std::find(targets.blocks.begin(), targets.blocks.end(), value) != targets.blocks.end();
    some = some || in;
    every = every && in;
    found = true;
    return false;
  });
  return !some ? InBlocks::never : every && found ? InBlocks::always : InBlocks::sometimes;
}

LORA_IO_INLINE std::string why_no_factors(std::string_view path,
                                          const std::map<std::string_view, const ModuleMatch*>& matches,
                                          const Targets& targets) {
  const auto match = matches.find(path);
  if (match == matches.end()) return ", of " + in_quotes(path) + ", which is no layer of the model that takes adapters";
  std::string why = ", of the layer " + in_quotes(path) + ", which receives no adapter: " + match->second->reason;
  for (const std::string& name : targets.modules.names()) {
    if (!path.ends_with(name) || is_end_of(name, path)) continue;
    const std::size_t dot = path.rfind('.', path.size() - name.size());
    return why + "; PEFT up to 0.4 took " + in_quotes(name) + " for the end of it, also within a word: add " +
           in_quotes(path.substr(dot == path.npos ? 0 : dot + 1)) + " to target_modules";
  }
  return why;
}

LORA_IO_INLINE BlockNames::BlockNames(const Targets& targets, const Caller& who) {
  for (const std::string& name : targets.block_names) {
    // Alternatives without brackets mean to PEFT what nobody meant.
    const bool clear = !Pattern(name, who).has_alternatives();
    patterns_.push_back({Pattern("(?:.*\\.)?(?:" + name + ")", who), Pattern(".*\\.(?:" + name + ")", who), clear});
  }
}

LORA_IO_INLINE bool BlockNames::allow(std::string_view before, bool& every) const {
  work_.add_layer();
  bool allowed = patterns_.empty() && before.find('.') != before.npos;
  for (const auto& [today, always, clear] : patterns_) {
    if (!work_.matches(today, before)) continue;
    allowed = true;
    every = every && clear && work_.matches(always, before);
  }
  return allowed;
}

#endif  // LORA_IO_DEFINITIONS

LORA_IO_INSTANCE(std::vector<ModuleMatch> match_peft(const ModelPaths&, const LoraConfig&, const Targets&,
                                                     const Caller&, FunctionRef<bool(const std::string& path)>,
                                                     FunctionRef<bool(const std::string& path)>))

}  // namespace lora::inline LORA_ABI::detail
