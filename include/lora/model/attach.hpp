#pragma once
/// Adapters by name, for whole models: attach, select, detach.

#include "lora/core/parameters.hpp"
#include "lora/model/adaptable.hpp"
#include "lora/model/match.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace lora {

namespace detail {

/// Throws NameError unless some layer of the model has an adapter of this name.
template <class T>
void check_has_adapter(const T& model, const char* who, std::string_view name) {
  bool found = false;
  visit_adaptable(model, [&](const Path&, const auto& layer) { found = found || layer.adapters().contains(name); });
  if (!found) throw NameError(std::string(who) + ": no layer of the model has an adapter " + detail::in_quotes(name));
}

}  // namespace detail

/// Prepares a model for adaptation: freezes everything that is not an adapter and gives each layer what the config
/// means for it (model/match.hpp): LoRA factors, a trained copy, or a trained bias. The new adapter is selected, alone.
///
///   lora::attach(net, {.rank = 8, .alpha = 16, .target_modules = {"fc1", "fc2"}}, rng);
///   lora::attach(net, {.target_modules = ".*\\.(q|v)_proj", .rank_pattern = {{"layers\\.0\\..*", 16}}}, rng);
///
/// Throws what match_modules throws, ConfigError for a rank or scale that one layer cannot take, NameError for an
/// adapter name that is taken or not allowed; nothing has changed then.
template <class T>
void attach(T& model, const LoraConfig& config, Rng& rng, std::string_view name = "default") {
  const std::vector<ModuleMatch> matches = detail::match_modules(model, config, "attach");
  const auto own_config = [&](const ModuleMatch& match) {
    LoraConfig own = config;
    own.rank = match.rank;
    own.alpha = match.alpha;
    return own;
  };
  auto match = matches.begin();
  visit_adaptable(std::as_const(model), [&](const Path&, const auto& layer) {
    using Layer = std::remove_cvref_t<decltype(layer)>;
    layer.adapters().check_new_name(name);
    if (match->role == ModuleMatch::Role::factors) {
      using S = typename Layer::Scalar;
      const detail::Caller who("attach", match->path);
      validate(own_config(*match), who);
      detail::check_scale<S>(own_config(*match), who);
      detail::check_factors_fit<S>(layer.out_features(), layer.in_features(), match->rank, who);
    }
    ++match;
  });

  match = matches.begin();
  visit_adaptable(model, [&](const Path&, auto& layer) {
    switch (match->role) {
      case ModuleMatch::Role::factors: layer.attach(name, own_config(*match), rng); break;
      case ModuleMatch::Role::full: layer.attach_full(name); break;
      case ModuleMatch::Role::bias: layer.attach_bias(name); break;
      case ModuleMatch::Role::nothing: layer.select_none(); break;
    }
    ++match;
  });
  freeze_base(model);
}

/// Selects one adapter wherever it exists, and the base alone everywhere else. Throws NameError if no layer has it.
template <class T>
void select(T& model, std::string_view name) {
  detail::check_has_adapter(model, "select", name);
  visit_adaptable(model, [&](const Path&, auto& layer) {
    if (layer.adapters().contains(name)) {
      layer.select(name);
    } else {
      layer.select_none();
    }
  });
}

/// The base model, bit for bit.
template <class T>
void select_none(T& model) {
  visit_adaptable(model, [](const Path&, auto& layer) { layer.select_none(); });
}

/// Removes an adapter from every layer that has it. Throws NameError if none has.
template <class T>
void detach(T& model, std::string_view name) {
  detail::check_has_adapter(model, "detach", name);
  visit_adaptable(model, [&](const Path&, auto& layer) {
    if (layer.adapters().contains(name)) layer.detach(name);
  });
}

}  // namespace lora
