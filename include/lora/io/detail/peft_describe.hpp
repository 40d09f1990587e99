#pragma once
/// Describes the layers of an adapter by a PEFT config that means the same in 0.7.1 and 0.21.2.
///
/// Source: peft 0.7.1 and 0.21.2, check_target_module_exists, _set_trainable, get_pattern_key and
/// LoraModel._create_and_replace.

#include "lora/adapters/lora_config.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/detail/peft_match.hpp"
#include "lora/io/detail/sort_by.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/model/pattern.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// The part of an adapter in one layer.
struct PeftLayer {
  using Role = ModuleMatch::Role;
  std::string path;
  Role role = Role::nothing;
  Index rank = 0;
  double alpha = 0;
  Scaling scaling = Scaling::alpha_over_rank;
  double dropout = 0;
  bool has_bias = false;  ///< the layer has a bias
  bool own_bias = false;  ///< the adapter has a trained bias

  double scale() const { return scaling_factor(alpha, rank, scaling); }
};

/// alpha' with alpha' / rank = alpha / sqrt(rank): the double whose quotient is nearest to that scale. The quotient
/// equals the scale if any double gives it, as always for a rank that is a power of 2; otherwise it is at most one unit
/// in the last place off.
double folded_alpha(double alpha, Index rank, Scaling scaling);

/// Whether PEFT, old and new, finds the right rank and alpha for each of these layers. It uses the first pattern that
/// matches, in the order of the file, which is sorted.
bool patterns_hold(const LoraConfig& config, const std::vector<PeftLayer>& layers);

/// Sets r, lora_alpha and, for the layers that differ, rank_pattern and alpha_pattern by full names. Throws ConfigError
/// if no choice of r and lora_alpha makes PEFT read them correctly.
void describe_ranks(const std::vector<PeftLayer>& layers, LoraConfig& config, const Caller& who);

/// A regular expression for exactly these names.
std::string pattern_for(const std::vector<std::string>& names);

/// The part of a layer with factors that PEFT would take for a layer of this name: it compares the ends of the names of
/// all modules, also of those that it has added. Null if there is none.
const char* part_of_peft(std::string_view path);

/// Sets the part of a config that says what each layer has. modules: the names of all modules of the model.
void describe_layers(const std::vector<PeftLayer>& layers, const std::vector<std::string>& modules, LoraConfig& config,
                     Targets& targets, const Caller& who);

/// Whether the config, when read again, gives every layer what it has.
bool describes(const ModelPaths& model, const PeftConfig& config, const std::vector<PeftLayer>& layers);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE double folded_alpha(double alpha, Index rank, Scaling scaling) {
  if (scaling == Scaling::alpha_over_rank) return alpha;
  const double scale = scaling_factor(alpha, rank, scaling), r = static_cast<double>(rank);
  double best = scale * r;
  for (const double toward : {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()}) {
    double candidate = scale * r;
    for (int step = 0; step < 2; ++step) {
      candidate = std::nextafter(candidate, toward);
      if (std::abs(candidate / r - scale) < std::abs(best / r - scale)) best = candidate;
    }
  }
  return best;
}

LORA_IO_INLINE bool patterns_hold(const LoraConfig& config, const std::vector<PeftLayer>& layers) {
  struct Entry {
    std::string key;
    std::pair<Index, double> value;
    Pattern now, old;
  };
  try {
    std::vector<Entry> entries;
    for (std::size_t k = 0; k < config.rank_pattern.size(); ++k) {
      const auto& [key, rank] = config.rank_pattern[k];  // alpha_pattern has the same keys
      entries.push_back({key,
                         {rank, config.alpha_pattern[k].second},
                         Pattern("(?:.*\\.)?(?:" + key + ")", "save_adapter"),
                         Pattern(".*\\." + key, "save_adapter")});
    }
    sort_by(entries, [](const Entry& a, const Entry& b) { return a.key < b.key; });
    return std::all_of(layers.begin(), layers.end(), [&](const PeftLayer& layer) {
      if (layer.role != PeftLayer::Role::adapter) return true;
      const auto first = [&](auto&& fits) { return std::find_if(entries.begin(), entries.end(), fits); };
      const auto value = [&](auto found) {
        return found == entries.end() ? std::pair(config.rank, config.alpha) : found->value;
      };
      const auto own = first([&](const Entry& entry) { return entry.key == layer.path; });
      const auto now = first([&](const Entry& entry) { return entry.now.matches(layer.path); });
      const auto old = first([&](const Entry& entry) { return entry.old.matches(layer.path); });
      return value(now) == value(own) && value(old == entries.end() ? own : old) == value(own);
    });
  } catch (const ConfigError&) {
    return false;  // a name that is not a valid pattern
  }
}

LORA_IO_INLINE void describe_ranks(const std::vector<PeftLayer>& layers, LoraConfig& config, const Caller& who) {
  using Pair = std::pair<Index, double>;
  struct Candidate {
    Pair pair;
    int count;
    std::size_t position;
  };
  std::vector<Candidate> candidates;
  const auto pair_of = [](const PeftLayer& layer) {
    return Pair(layer.rank, folded_alpha(layer.alpha, layer.rank, layer.scaling));
  };
  for (const PeftLayer& layer : layers) {
    if (layer.role != PeftLayer::Role::adapter) continue;
    const Pair pair = pair_of(layer);
    const auto found =
        std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& one) { return one.pair == pair; });
    if (found != candidates.end()) {
      ++found->count;
    } else {
      candidates.push_back({pair, 1, candidates.size()});
    }
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.count != b.count ? a.count > b.count : a.position < b.position;
  });
  config.scaling = Scaling::alpha_over_rank;
  for (const auto& [pair, count, position] : candidates) {
    config.rank = pair.first;
    config.alpha = pair.second;
    config.rank_pattern.clear();
    config.alpha_pattern.clear();
    for (const PeftLayer& layer : layers) {
      if (layer.role != PeftLayer::Role::adapter || pair_of(layer) == pair) continue;
      config.rank_pattern.emplace_back(layer.path, layer.rank);
      config.alpha_pattern.emplace_back(layer.path, pair_of(layer).second);
    }
    if (patterns_hold(config, layers)) return;
  }
  fail<ConfigError>(who,
                    "the layers have different ranks or alphas, and PEFT, which takes a layer's name in rank_pattern "
                    "and alpha_pattern for a regular expression and for the end of longer names, would mistake one "
                    "for another; give layers of similar names the same rank and alpha");
}

LORA_IO_INLINE std::string pattern_for(const std::vector<std::string>& names) {
  std::string pattern;
  for (const std::string& name : names) {
    if (!pattern.empty()) pattern += '|';
    for (const char letter : name) {
      const bool word = letter == '_' || (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') ||
                        (letter >= 'A' && letter <= 'Z') || static_cast<unsigned char>(letter) >= 0x80;
      if (!word) pattern += '\\';
      pattern += letter;
    }
  }
  return pattern;
}

LORA_IO_INLINE const char* part_of_peft(std::string_view path) {
  for (const char* own : {"base_layer", "lora_dropout", "lora_A", "lora_B", "lora_A.default", "lora_embedding_A",
                          "lora_embedding_B", "lora_magnitude_vector"}) {
    if (std::string_view(own).ends_with(path)) return own;
  }
  return nullptr;
}

LORA_IO_INLINE void describe_layers(const std::vector<PeftLayer>& layers, const std::vector<std::string>& modules,
                                    LoraConfig& config, Targets& targets, const Caller& who) {
  using Role = PeftLayer::Role;
  std::vector<std::string> adapted, full;
  const PeftLayer* first = nullptr;
  bool bias_alone = false, bias_beside = false;
  for (const PeftLayer& layer : layers) {
    if (layer.path.empty() && layer.role != Role::nothing) {
      fail<NameError>(who, "the model is itself a layer, without a name, which PEFT cannot adapt; make it part of one");
    }
    if (layer.role == Role::full) full.push_back(layer.path);
    bias_alone = bias_alone || layer.role == Role::bias;
    if (layer.role != Role::adapter) continue;
    adapted.push_back(layer.path);
    bias_beside = bias_beside || layer.own_bias;
    if (first == nullptr) first = &layer;
    if (layer.dropout == first->dropout) continue;
    fail<ConfigError>(who, "layer " + in_quotes(first->path) + " has dropout " + Json(first->dropout).dump() +
                               ", layer " + in_quotes(layer.path) + " " + Json(layer.dropout).dump() +
                               "; PEFT has one lora_dropout for all");
  }
  if (adapted.empty()) {
    fail<ConfigError>(who, "the adapter has factors in no layer, and PEFT knows no adapter without target_modules");
  }
  for (const std::string& name : full) {
    const char* const own = part_of_peft(name);
    if (own == nullptr) continue;
    fail<NameError>(who,
                    "layer " + in_quotes(name) +
                        " is trained in full, and PEFT, which only compares the ends of names, would take its own " +
                        in_quotes(own) + " for it, and fail; rename the layer");
  }
  for (const std::string& module : modules) {
    for (const std::string& name : full) {
      if (!module.ends_with(name) || std::find(full.begin(), full.end(), module) != full.end()) continue;
      fail<NameError>(who, "layer " + in_quotes(name) +
                               " is trained in full, and PEFT, which only compares the ends of names, would train " +
                               in_quotes(module) + " in full too; rename one");
    }
  }
  const bool exact = std::all_of(modules.begin(), modules.end(), [&](const std::string& module) {
    const bool target = std::find(adapted.begin(), adapted.end(), module) != adapted.end();
    return target || std::none_of(adapted.begin(), adapted.end(),
                                  [&](const std::string& name) { return is_end_of(name, module); });
  });
  targets = {.modules = exact ? ModuleNames(adapted) : ModuleNames(pattern_for(adapted)), .modules_to_save = full};
  config.bias = bias_alone ? Bias::all : bias_beside ? Bias::lora_only : Bias::none;
  config.dropout = first->dropout;
  describe_ranks(layers, config, who);
}

LORA_IO_INLINE bool describes(const ModelPaths& model, const PeftConfig& config, const std::vector<PeftLayer>& layers) {
  using Role = PeftLayer::Role;
  if (config.targets.modules.empty()) return false;
  try {
    const PeftConfig read = parse_peft_config("save_adapter", to_json(config));
    // Where releases of PEFT differ, the config is ambiguous: assume the wrong answer.
    const auto without_factors = [&](const std::string& path) {
      return std::none_of(layers.begin(), layers.end(),
                          [&](const PeftLayer& layer) { return layer.role == Role::adapter && layer.path == path; });
    };
    const auto matches = match_peft(model, read.lora, read.targets, "save_adapter", without_factors,
                                    [](const std::string&) { return false; });
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
    return false;  // it belongs to another model
  }
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
