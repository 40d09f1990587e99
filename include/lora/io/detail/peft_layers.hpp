#pragma once
/// What the layers of a model have under an adapter's name, and what a PEFT config gives to each.

#include "lora/adapters/lora_config.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/model/match.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

/// What one layer has under an adapter's name, or receives from a config.
struct PeftLayer {
  using Role = ModuleMatch::Role;
  std::string path;
  Role role = Role::nothing;
  Index rank = 0;
  double alpha = 0;
  Scaling scaling = Scaling::alpha_over_rank;
  double dropout = 0;
  bool has_bias = false;  ///< the layer has a bias
  bool own_bias = false;  ///< the adapter brings one

  double scale() const { return scaling_factor(alpha, rank, scaling); }
};

/// The names among `names` that fit something; all others say nothing about this model. PEFT does the same: a config
/// for one type of model lists names that only some of its models have.
inline std::vector<std::string> fitting_names(const std::vector<std::string>& names,
                                              const std::vector<std::string>& paths, auto&& fits) {
  std::vector<std::string> found;
  for (const std::string& name : names) {
    if (std::any_of(paths.begin(), paths.end(), [&](const std::string& path) { return fits(name, path); })) {
      found.push_back(name);
    }
  }
  return found;
}

template <class T>
std::vector<std::pair<std::string, T>> fitting_patterns(const std::vector<std::pair<std::string, T>>& entries,
                                                        const std::vector<ModuleMatch>& matches, const Caller& who) {
  const PatternTable<T> table(entries, who);
  std::vector<std::pair<std::string, T>> found;
  for (std::size_t k = 0; k < entries.size(); ++k) {
    const bool used = std::any_of(matches.begin(), matches.end(), [&](const ModuleMatch& match) {
      return match.role == ModuleMatch::Role::adapter && table.matches(k, match.path);
    });
    if (used) found.push_back(entries[k]);
  }
  return found;
}

/// What the config gives to every layer that takes adapters, in listing order. Throws NameError if it names no layer at
/// all, and what match_modules throws.
template <class T>
std::vector<ModuleMatch> peft_matches(const T& model, const PeftConfig& config, const Caller& who) {
  std::vector<std::string> paths;
  visit_adaptable(model, [&](const Path& path, const auto&) { paths.push_back(path.str()); });
  LoraConfig lora = config.lora;
  Targets targets = config.targets;
  const std::size_t given = targets.modules.names().size();
  if (!targets.modules.is_pattern()) {
    targets.modules = fitting_names(targets.modules.names(), paths, is_end_of);
    if (given > 0 && targets.modules.empty()) {
      std::string layers;
      for (const std::string& path : paths) layers += (layers.empty() ? "" : ", ") + path;
      fail<NameError>(who, "none of its target_modules is a layer of the model, which has " + layers);
    }
  }
  if (!targets.exclude.is_pattern()) {
    targets.exclude = fitting_names(targets.exclude.names(), paths, is_end_of);
  }
  targets.modules_to_save = fitting_names(targets.modules_to_save, paths, is_part_of);
  lora.rank_pattern.clear();
  lora.alpha_pattern.clear();
  const std::vector<ModuleMatch> matches = match_modules(model, lora, targets, who, peft_words);
  lora.rank_pattern = fitting_patterns(config.lora.rank_pattern, matches, who);
  lora.alpha_pattern = fitting_patterns(config.lora.alpha_pattern, matches, who);
  return match_modules(model, lora, targets, who, peft_words);
}

/// Whether the config, as it will be read again, gives every layer what it has.
template <class T>
bool describes(const T& model, const PeftConfig& config, const std::vector<PeftLayer>& layers) {
  using Role = PeftLayer::Role;
  if (config.targets.modules.empty()) return false;
  try {
    const PeftConfig read = parse_peft_config("save_adapter", to_json(config));
    const auto matches = peft_matches(model, read, "save_adapter");
    for (std::size_t k = 0; k < layers.size(); ++k) {
      const PeftLayer& layer = layers[k];
      const ModuleMatch& match = matches[k];
      // With bias "all", a bias that is not trained is saved as it is in the base.
      const bool untrained = match.role == Role::bias && layer.role == Role::nothing;
      if (match.role != layer.role && !untrained) return false;
      if (layer.role != Role::adapter) continue;
      if (match.rank != layer.rank || read.lora.dropout != layer.dropout) return false;
      if (scaling_factor(match.alpha, match.rank, read.lora.scaling) != layer.scale()) return false;
      if (layer.own_bias && read.lora.bias == Bias::none) return false;
    }
    return true;
  } catch (const Error&) {
    return false;  // it is another model's
  }
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
