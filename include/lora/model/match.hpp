#pragma once
/// Which layers of a model receive an adapter, and why: the rules of Hugging Face PEFT.
///
///   for (const auto& match : lora::match_modules(net, config, targets)) {
///     std::cout << match.path << ": " << match.reason << '\n';
///   }
///
/// In this order, for every layer that takes adapters:
///   1. modules_to_save: the layer, or a module that contains it, is trained in full. Only the ends of names are
///      compared, also within a word: "classifier" is "pre_classifier", too.
///   2. exclude: no adapter.
///   3. modules: a list of names or a pattern; empty means all.
///   4. blocks: a layer that a list matches only by suffix must be in a block with one of these numbers: the first
///      number in its name, after two segments or one of block_names.
/// A layer that differs from a name in modules_to_save at a dot alone ("fc_1" from "fc.1") receives nothing.
///
/// Source: peft 0.21.2, check_target_module_exists, get_pattern_key and _set_trainable in tuners/tuners_utils.py and
/// utils/other.py.

#include "lora/adapters/lora_config.hpp"
#include "lora/core/function_ref.hpp"
#include "lora/core/parameters.hpp"
#include "lora/core/visit.hpp"
#include "lora/model/adaptable.hpp"
#include "lora/model/pattern.hpp"
#include "lora/model/targets.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// What a layer receives: an adapter of the config's kind, a trained copy, a trained bias alone, or nothing.
struct ModuleMatch {
  enum class Role { adapter, full, bias, nothing };
  std::string path;
  Role role = Role::nothing;
  Index rank = 0;      ///< of the adapter, if its config has one
  double alpha = 0;    ///< likewise
  std::string reason;  ///< the setting that decided: `modules has "q_proj"`
};

namespace detail {

/// What matching reads of a model, so that the rules are compiled once for all models.
struct ModelPaths {
  struct Layer {
    std::string path;
    bool has_bias;
  };
  std::vector<Layer> layers;            // those that take adapters, in listing order
  std::vector<std::string> parameters;  // all
};

template <class T>
ModelPaths paths_of(const T& model) {
  ModelPaths paths;
  // One walk rather than two: each has to be compiled for every model.
  walk(
      model,
      [&](const Path& path, const auto& tensor) {
        if constexpr (ParameterLike<std::remove_cvref_t<decltype(tensor)>>) paths.parameters.push_back(path.str());
      },
      [&](const Path& path, const auto& module) {
        if constexpr (Adaptable<std::remove_cvref_t<decltype(module)>>) {
          paths.layers.push_back({path.str(), module.bias() != nullptr});
        }
      });
  return paths;
}

/// The names of the settings in messages: the fields of Targets, or PEFT's keys for settings from a file.
struct TargetWords {
  const char* modules = "modules";
  const char* exclude = "exclude";
  const char* blocks = "blocks";
};
inline constexpr TargetWords peft_words = {"target_modules", "exclude_modules", "layers_to_transform"};

/// A config whose layers may have different ranks and alphas.
template <class C>
concept HasPatterns = requires(const C& config) {
  config.rank;
  config.alpha;
  config.rank_pattern;
  config.alpha_pattern;
};

/// Whether `fits(name, ...)` holds for `path` or for a module that contains it.
inline bool fits_part(std::string_view name, std::string_view path, auto&& fits) {
  for (std::size_t end = path.size(); end != std::string_view::npos && end > 0; end = path.rfind('.', end - 1)) {
    if (fits(name, path.substr(0, end))) return true;
  }
  return false;
}
/// Whether `path`, or a module that contains it, is one of the modules_to_save called `name`.
inline bool is_part_of(std::string_view name, std::string_view path) {
  return fits_part(name, path, [](std::string_view end, std::string_view module) { return module.ends_with(end); });
}

/// Bounds what all patterns of a config may cost together: each of them is bounded, but a file may have a million.
class PatternWork {
 public:
  bool matches(const Pattern& pattern, std::string_view name) const { return pattern.matches(name, left_); }
  /// Allows for one more layer: a model of very many has to be matched, too. A usual pattern costs 5,000 for a layer.
  void add_layer() const { left_ += 100'000; }

 private:
  mutable std::size_t left_ = 100'000'000;  // a quarter of a second
};

/// A ModuleNames with its pattern parsed.
class ModuleMatcher {
 public:
  ModuleMatcher(const char* field, const ModuleNames& names, const Caller& who) : field_(field), names_(names.names()) {
    for (std::size_t k = 0; k < names_.size(); ++k) position_.emplace(names_[k], k);  // the first of equal names
    if (!names.is_pattern()) return;
    std::string lower = names.pattern();
    for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    all_ = lower == "all-linear";
    if (!all_) pattern_.emplace(names.pattern(), who);
    text_ = names.pattern();
  }

  /// The reason why it matches; empty if it does not.
  std::string reason(std::string_view path) const {
    work_.add_layer();
    const std::string matched = all_ || (pattern_ && work_.matches(*pattern_, path)) ? text_ : name_of(path);
    if (matched.empty()) return {};
    return field_ + (all_ || pattern_ ? " is " : " has ") + in_quotes(matched);
  }
  bool matches(std::string_view path) const { return !reason(path).empty(); }
  bool has_whole(std::string_view path) const { return position_.contains(path); }

 private:
  /// The first name for which is_end_of holds; it looks for the ends of the path among the names, which may be many.
  std::string name_of(std::string_view path) const {
    std::size_t first = names_.size();
    for (std::string_view end = path;;) {
      if (const auto found = position_.find(end); found != position_.end()) first = std::min(first, found->second);
      const std::size_t dot = end.find('.');
      if (dot == end.npos) break;
      end.remove_prefix(dot + 1);
    }
    return first == names_.size() ? std::string() : names_[first];
  }

  std::string field_;
  std::vector<std::string> names_;
  std::map<std::string, std::size_t, std::less<>> position_;  // in names_
  std::optional<Pattern> pattern_;
  PatternWork work_;
  std::string text_;
  bool all_ = false;
};

/// The keys of rank_pattern or alpha_pattern, parsed. Most are plain names, some between ^ and $ or with escaped dots:
/// these are compared as such, where a dot is any character.
class PatternTable {
 public:
  void add(const std::string& key, const Caller& who) {
    if (auto name = plain_name(key)) {
      entries_.push_back({key, std::move(*name), key.starts_with('^'), std::nullopt});
      return;
    }
    Pattern(key, who);  // alone first: "a)(b" is not a pattern, but would be one inside brackets
    entries_.push_back({key, "", false, Pattern("(?:.*\\.)?(?:" + key + ")", who)});
  }

  std::size_t size() const { return entries_.size(); }
  const std::string& key(std::size_t k) const { return entries_[k].key; }
  bool matches(std::size_t k, std::string_view path) const {
    const Entry& entry = entries_[k];
    return entry.pattern ? work_.matches(*entry.pattern, path) : is_plain_end_of(entry.name, path, entry.whole);
  }
  /// The number of the first key that matches, or size().
  std::size_t first(std::string_view path) const {
    work_.add_layer();
    std::size_t k = 0;
    while (k < entries_.size() && !matches(k, path)) ++k;
    return k;
  }

 private:
  struct Entry {
    std::string key;
    std::string name;  // if there is no pattern
    bool whole;        // the name, not only its end
    std::optional<Pattern> pattern;
  };
  static constexpr char any = '\0';  // in a plain name

  /// The characters of a key that is a plain name.
  static std::optional<std::string> plain_name(std::string_view key) {
    if (key.starts_with('^')) key.remove_prefix(1);
    if (key.ends_with('$') && !key.ends_with("\\$")) key.remove_suffix(1);
    std::string name;
    for (std::size_t k = 0; k < key.size(); ++k) {
      const bool escaped = key[k] == '\\' && k + 1 < key.size() && key[k + 1] == '.';
      if (escaped) ++k;
      if (!escaped && !is_word(key[k]) && key[k] != '.' && key[k] != '-') return std::nullopt;
      name += key[k] == '.' && !escaped ? any : key[k];
    }
    return name;
  }
  /// is_end_of, where `any` is any character of the path, of which UTF-8 has several bytes.
  static bool is_plain_end_of(std::string_view name, std::string_view path, bool whole) {
    const auto next_from_end = [&path](std::size_t& end) {
      do {
        --end;
      } while (end > 0 && (static_cast<unsigned char>(path[end]) & 0xc0u) == 0x80u);
    };
    std::size_t end = path.size();
    for (std::size_t k = name.size(); k-- > 0;) {
      if (end == 0) return false;
      next_from_end(end);
      if (name[k] == any ? path[end] == '\n' : name[k] != path[end]) return false;
    }
    if (end == 0) return true;
    return !whole && path[end - 1] == '.' && path.substr(0, end).find('\n') == path.npos;
  }

  std::vector<Entry> entries_;
  PatternWork work_;
};

template <class T>
PatternTable pattern_table(const std::vector<std::pair<std::string, T>>& entries, const Caller& who) {
  PatternTable table;
  for (const auto& entry : entries) table.add(entry.first, who);
  return table;
}

/// Calls f(before, number) for every segment of digits in a path that has another after it, from the first on, until it
/// returns true: before is the path up to the number, without the dot.
inline void for_each_number(std::string_view path, auto&& f) {
  for (std::size_t dot = path.find('.'); dot != path.npos; dot = path.find('.', dot + 1)) {
    const std::size_t end = path.find('.', dot + 1);
    if (end == path.npos) return;
    const std::string_view digits = path.substr(dot + 1, end - dot - 1);
    const bool number = !digits.empty() && digits.size() < 10 &&
                        std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!number) continue;
    Index value = 0;
    for (const char c : digits) value = 10 * value + (c - '0');
    if (f(path.substr(0, dot), value)) return;
  }
}

/// The number of the block that contains a layer: the first segment of digits which is not the path's end, with a name
/// before it that matches one of `names`; if there are none, any name, but two segments.
class BlockNumber {
 public:
  BlockNumber(const std::vector<std::string>& names, const Caller& who) {
    for (const std::string& name : names) {
      if (Pattern(name, who).has_alternatives()) {
        // PEFT puts it between others without brackets, which then belong to one of the alternatives.
        fail<ConfigError>(
            who, "block_names (layers_pattern) has " + in_quotes(name) + ", expected (" + name + "), or several names");
      }
      before_.emplace_back("(?:.*\\.)?(?:" + name + ")", who);
    }
  }

  std::optional<Index> of(std::string_view path) const {
    work_.add_layer();
    if (before_.empty()) return first(path, [](std::string_view before) { return before.find('.') != before.npos; });
    for (const Pattern& pattern : before_) {
      const auto fits = [&](std::string_view before) { return work_.matches(pattern, before); };
      if (auto number = first(path, fits)) return number;
    }
    return std::nullopt;
  }

 private:
  static std::optional<Index> first(std::string_view path, auto&& allows) {
    std::optional<Index> found;
    for_each_number(path, [&](std::string_view before, Index value) {
      if (allows(before)) found = value;
      return found.has_value();
    });
    return found;
  }

  std::vector<Pattern> before_;
  PatternWork work_;
};

/// "fc1, fc2 and 30 more", for messages.
inline std::string layer_list(const std::vector<ModuleMatch>& matches) {
  constexpr std::size_t max_shown = 20;
  std::string list;
  for (std::size_t k = 0; k < matches.size() && k < max_shown; ++k) list += (k > 0 ? ", " : "") + matches[k].path;
  if (matches.size() > max_shown) list += " and " + std::to_string(matches.size() - max_shown) + " more";
  return list;
}

/// Throws NameError unless every one of `names` fits the path of one of `matches`.
inline void check_names_match(const Caller& who, const char* field, const std::vector<std::string>& names,
                              const std::vector<ModuleMatch>& matches, auto&& fits) {
  for (const std::string& name : names) {
    if (std::any_of(matches.begin(), matches.end(), [&](const auto& match) { return fits(name, match.path); }))
      continue;
    fail<NameError>(
        who, std::string(field) + " names " + in_quotes(name) + ", expected one of the layers " + layer_list(matches));
  }
}

/// The same for a list of names or a pattern.
inline void check_modules_match(const Caller& who, const char* field, const ModuleNames& modules,
                                const std::vector<ModuleMatch>& matches) {
  check_names_match(who, field, modules.names(), matches, is_end_of);
  if (!modules.is_pattern()) return;
  const ModuleMatcher matcher(field, modules, who);
  if (std::any_of(matches.begin(), matches.end(), [&](const auto& match) { return matcher.matches(match.path); }))
    return;
  const std::string text = in_quotes(modules.pattern());
  fail<NameError>(who, std::string(field) + " is the pattern " + text +
                           ", which is not the whole name of any of the layers " + layer_list(matches) + "; a list, {" +
                           text + "}, has ends of names");
}

/// Throws NameError unless every pattern matches a layer that receives an adapter.
inline void check_patterns_match(const Caller& who, const char* field, const PatternTable& table,
                                 const std::vector<ModuleMatch>& matches) {
  for (std::size_t k = 0; k < table.size(); ++k) {
    const bool used = std::any_of(matches.begin(), matches.end(), [&](const ModuleMatch& match) {
      return match.role == ModuleMatch::Role::adapter && table.matches(k, match.path);
    });
    if (used) continue;
    fail<NameError>(who, std::string(field) + " has " + in_quotes(table.key(k)) +
                             ", which matches no layer that receives an adapter");
  }
}

/// Throws NameError if two layers have one path, or if a parameter that modules_to_save matches belongs to no layer and
/// is not known otherwise.
inline void check_listing(
    const ModelPaths& model, const Targets& targets, const Caller& who,
    FunctionRef<bool(const std::string& path)> is_known = [](const std::string&) { return false; }) {
  std::map<std::string, std::size_t, std::less<>> number;
  for (const ModelPaths::Layer& layer : model.layers) {
    if (number.emplace(layer.path, number.size()).second) continue;
    fail<NameError>(who, "two layers of the model are called " + in_quotes(layer.path));
  }
  for (const std::string& name : model.parameters) {
    const bool in_layer = std::any_of(model.layers.begin(), model.layers.end(), [&](const ModelPaths::Layer& layer) {
      const std::string& path = layer.path;
      return path.empty() || (name.starts_with(path) && name.size() > path.size() && name[path.size()] == '.');
    });
    if (in_layer || is_known(name)) continue;
    for (const std::string& saved : targets.modules_to_save) {
      if (!is_part_of(saved, name)) continue;
      fail<NameError>(who, "modules_to_save names " + in_quotes(saved) + ", but the parameter " + name +
                               " belongs to no layer that takes adapters");
    }
  }
}

/// Applies rules 1 to 4 and the patterns; names that fit no layer are ignored. left_out(path, whole) is the reason why
/// a layer that `modules` matches, by its whole name or not, receives no adapter; empty if it does.
using LeftOut = FunctionRef<std::string(const std::string& path, bool whole)>;
template <class C>
std::vector<ModuleMatch> match_layers(const ModelPaths& model, const C& config, const Targets& targets,
                                      const Caller& who, const TargetWords& words, LeftOut left_out) {
  if constexpr (requires { validate(config, who); }) validate(config, who);
  validate(targets, who);
  const ModuleMatcher included(words.modules, targets.modules, who);
  const ModuleMatcher excluded(words.exclude, targets.exclude, who);
  const Bias bias = bias_of(config);
  PatternTable sparing;
  for (const std::string& name : targets.modules_to_save) sparing.add(name, who);

  const auto match_one = [&](const ModelPaths::Layer& layer) {
    ModuleMatch match;
    match.path = layer.path;
    const auto decide = [&](ModuleMatch::Role role, std::string reason) {
      match.role = role;
      match.reason = std::move(reason);
      return match;
    };
    const auto rest = [&](std::string reason) {
      const bool trains_bias = bias == Bias::all && layer.has_bias;
      return decide(trains_bias ? ModuleMatch::Role::bias : ModuleMatch::Role::nothing,
                    trains_bias ? "bias is all, and " + std::move(reason) : std::move(reason));
    };
    const std::string field = words.modules;
    std::string reason = excluded.reason(match.path);
    bool adapted = false;
    if (reason.empty()) {
      reason = targets.modules.empty() ? field + " is empty: all layers" : included.reason(match.path);
      std::string why =
          reason.empty() ? field + " does not have it" : left_out(match.path, included.has_whole(match.path));
      adapted = why.empty();
      if (!adapted) reason = std::move(why);
    }
    const std::string *saved = nullptr, *spared = nullptr;
    for (std::size_t k = 0; k < targets.modules_to_save.size(); ++k) {
      const std::string& name = targets.modules_to_save[k];
      if (saved == nullptr && is_part_of(name, match.path)) saved = &name;
      const auto fits = [&](std::string_view, std::string_view module) { return sparing.matches(k, module); };
      if (spared == nullptr && fits_part(name, match.path, fits)) spared = &name;
    }
    if (saved != nullptr && adapted && spared == nullptr) {
      // PEFT spares the layers that modules_to_save names by whole words from its adapters, and fails at the others.
      fail<NameError>(who, "the layer " + match.path + " is to receive an adapter, because " + reason + ", and to be " +
                               "trained in full, because modules_to_save has " + in_quotes(*saved) +
                               ", with which it ends; expected one of both");
    }
    if (saved != nullptr) return decide(ModuleMatch::Role::full, "modules_to_save has " + in_quotes(*saved));
    if (adapted && spared != nullptr) {
      return rest("modules_to_save has " + in_quotes(*spared) + ", in which PEFT takes a dot for any character");
    }
    return adapted ? decide(ModuleMatch::Role::adapter, std::move(reason)) : rest(std::move(reason));
  };
  std::vector<ModuleMatch> matches;
  for (const ModelPaths::Layer& layer : model.layers) matches.push_back(match_one(layer));
  if (matches.empty()) fail<NameError>(who, "the model has no layer that takes adapters");
  if constexpr (HasPatterns<C>) {
    const PatternTable ranks = pattern_table(config.rank_pattern, who);
    const PatternTable alphas = pattern_table(config.alpha_pattern, who);
    for (ModuleMatch& match : matches) {
      if (match.role != ModuleMatch::Role::adapter) continue;
      const std::size_t rank = ranks.first(match.path), alpha = alphas.first(match.path);
      match.rank = rank < ranks.size() ? config.rank_pattern[rank].second : config.rank;
      match.alpha = alpha < alphas.size() ? config.alpha_pattern[alpha].second : config.alpha;
    }
  }
  return matches;
}

/// Throws NameError unless every name of `modules` gives some layer an adapter, or `exclude` has all its layers.
inline void check_modules_adapt(const Caller& who, const TargetWords& words, const Targets& targets,
                                const std::vector<ModuleMatch>& matches) {
  const ModuleMatcher excluded(words.exclude, targets.exclude, who);
  for (const std::string& name : targets.modules.names()) {
    const ModuleMatch* without = nullptr;
    const bool adapts = std::any_of(matches.begin(), matches.end(), [&](const ModuleMatch& match) {
      if (!is_end_of(name, match.path)) return false;
      if (without == nullptr && !excluded.matches(match.path)) without = &match;
      return match.role == ModuleMatch::Role::adapter;
    });
    if (adapts || without == nullptr) continue;
    fail<NameError>(who, std::string(words.modules) + " has " + in_quotes(name) +
                             ", which gives no layer an adapter; " + without->path +
                             ", for example: " + without->reason);
  }
}

/// Throws NameError unless every number of `blocks` is that of a block with a layer that `modules` matches by suffix.
inline void check_blocks_match(const Caller& who, const TargetWords& words, const Targets& targets,
                               const BlockNumber& block, const std::vector<ModuleMatch>& matches) {
  if (targets.blocks.empty()) return;
  const ModuleMatcher included(words.modules, targets.modules, who);
  std::vector<Index> there;
  for (const ModuleMatch& match : matches) {
    if (included.has_whole(match.path) || !(targets.modules.empty() || included.matches(match.path))) continue;
    const auto number = block.of(match.path);
    if (number && std::find(there.begin(), there.end(), *number) == there.end()) there.push_back(*number);
  }
  for (const Index number : targets.blocks) {
    if (std::find(there.begin(), there.end(), number) != there.end()) continue;
    std::string known;
    for (const Index one : there) known += (known.empty() ? "" : ", ") + std::to_string(one);
    fail<NameError>(who, std::string(words.blocks) + " has " + std::to_string(number) +
                             ", a block without a layer that " + words.modules + " matches by its end" +
                             (known.empty() ? "; no block has one" : ", expected some of " + known));
  }
}

/// match_layers, where every name, every pattern and every block must match a layer.
template <class C>
std::vector<ModuleMatch> match_modules(const ModelPaths& model, const C& config, const Targets& targets,
                                       const Caller& who, const TargetWords& words) {
  const BlockNumber block(targets.block_names, who);
  const auto outside_blocks = [&](const std::string& path, bool whole) -> std::string {
    if (targets.blocks.empty() || whole) return {};
    const std::string blocks = words.blocks;
    const std::optional<Index> number = block.of(path);
    if (!number) return blocks + " needs a block's number in its name";
    const bool in = std::find(targets.blocks.begin(), targets.blocks.end(), *number) != targets.blocks.end();
    return in ? "" : blocks + " does not have " + std::to_string(*number);
  };
  std::vector<ModuleMatch> matches = match_layers(model, config, targets, who, words, outside_blocks);
  check_modules_match(who, words.modules, targets.modules, matches);
  check_modules_match(who, words.exclude, targets.exclude, matches);
  check_listing(model, targets, who);
  check_names_match(who, "modules_to_save", targets.modules_to_save, matches, is_part_of);
  check_blocks_match(who, words, targets, block, matches);
  check_modules_adapt(who, words, targets, matches);
  if constexpr (HasPatterns<C>) {
    check_patterns_match(who, "rank_pattern", pattern_table(config.rank_pattern, who), matches);
    check_patterns_match(who, "alpha_pattern", pattern_table(config.alpha_pattern, who), matches);
  }
  return matches;
}

/// The config of one layer.
template <class C>
C config_for(const C& config, const ModuleMatch& match) {
  C own = config;
  if constexpr (HasPatterns<C>) {
    own.rank = match.rank;
    own.alpha = match.alpha;
  }
  return own;
}

}  // namespace detail

/// What attach(model, config, targets, ...) would do to each layer that takes adapters, in listing order; changes
/// nothing.
///
/// Throws ConfigError for a setting out of range or an invalid pattern, NameError for a name that no layer has, a name
/// of modules that gives no layer an adapter (because modules_to_save or blocks take them all), a block that has no
/// such layer, or a model without layers that take adapters.
template <class T, class C = LoraConfig>
std::vector<ModuleMatch> match_modules(const T& model, const C& config, const Targets& targets = {}) {
  return detail::match_modules(detail::paths_of(model), config, targets, "match_modules", detail::TargetWords());
}

}  // namespace lora::inline LORA_ABI
