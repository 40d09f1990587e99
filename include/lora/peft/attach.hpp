#pragma once
/// Adapters by name, for whole models: attach, select, detach.

#include "lora/adapters/adapter_set.hpp"
#include "lora/core/parameters.hpp"

#include <concepts>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

/// A layer that can hold named adapters; Linear is one. A model's own layer joins by offering the same calls.
template <class L>
concept Adaptable = requires(L& layer, std::string_view name, const LoraConfig& config, Rng& rng) {
  layer.attach(name, config, rng);
  layer.attach_full(name);
  layer.attach_bias(name);
  layer.detach(name);
  layer.select(name);
  layer.select_none();
  { layer.adapters().contains(name) } -> std::convertible_to<bool>;
  layer.adapters().check_new_name(name);
};

/// f(path, layer) for every adaptable layer of the model, in listing order.
template <class T, class F>
void visit_adaptable(T& model, F&& f) {
  visit_modules(model, [&](const Path& path, auto& module) {
    if constexpr (Adaptable<std::remove_cvref_t<decltype(module)>>) f(path, module);
  });
}

namespace detail {

inline bool matches_any(const Path& path, const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return path.ends_with(name); });
}

template <class T>
void check_names_match(const T& model, const char* field, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    bool found = false;
    std::string layers;
    visit_adaptable(model, [&](const Path& path, const auto&) {
      found = found || path.ends_with(name);
      layers += (layers.empty() ? "" : ", ") + path.str();
    });
    if (!found) {
      throw NameError(std::string("attach: ") + field + " names " + detail::in_quotes(name) +
                      ", expected one of the layers " +
                      (layers.empty() ? "of the model (it has none that takes adapters)" : layers));
    }
  }
}

/// Throws NameError unless some layer of the model has an adapter of this name.
template <class T>
void check_has_adapter(const T& model, const char* who, std::string_view name) {
  bool found = false;
  visit_adaptable(model, [&](const Path&, const auto& layer) { found = found || layer.adapters().contains(name); });
  if (!found) throw NameError(std::string(who) + ": no layer of the model has an adapter " + detail::in_quotes(name));
}

}  // namespace detail

/// Prepares a model for adaptation: freezes everything that is not an adapter, gives the layers named in
/// config.target_modules (all adaptable layers if empty) LoRA factors, those in config.modules_to_save a trained copy,
/// and trained biases as config.bias says. The new adapter is selected, alone.
///
///   lora::attach(net, {.rank = 8, .alpha = 16, .target_modules = {"fc1", "fc2"}}, rng);
///
/// Throws ConfigError, or NameError for a name that matches no layer or an adapter name that is taken; nothing has
/// changed then.
template <class T>
void attach(T& model, const LoraConfig& config, Rng& rng, std::string_view name = "default") {
  validate(config, "attach");
  detail::check_names_match(model, "target_modules", config.target_modules);
  detail::check_names_match(model, "modules_to_save", config.modules_to_save);
  bool any = false;
  visit_adaptable(std::as_const(model), [&](const Path&, const auto& layer) {
    using Layer = std::remove_cvref_t<decltype(layer)>;
    layer.adapters().check_new_name(name);
    if constexpr (requires { typename Layer::Scalar; }) detail::check_scale<typename Layer::Scalar>(config, "attach");
    any = true;
  });
  if (!any) throw NameError("attach: the model has no layer that takes adapters");

  visit_adaptable(model, [&](const Path& path, auto& layer) {
    if (detail::matches_any(path, config.modules_to_save)) {
      layer.attach_full(name);
    } else if (config.target_modules.empty() || detail::matches_any(path, config.target_modules)) {
      layer.attach(name, config, rng);
    } else if (config.bias == Bias::all && layer.bias() != nullptr) {
      layer.attach_bias(name);
    } else {
      layer.select_none();
    }
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
