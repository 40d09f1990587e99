#pragma once
/// Adapters by name, for whole models: attach, select, detach. Each returns how many layers it changed.

#include "lora/core/parameters.hpp"
#include "lora/core/scratch.hpp"
#include "lora/model/adaptable.hpp"
#include "lora/model/match.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

/// Throws what attaching an adapter with this config to a layer of this size would throw.
template <class S, class C>
void check_config(const C& config, Index out, Index in, const Caller& who) {
  if constexpr (requires { validate(config, who); }) validate(config, who);
  if constexpr (std::is_same_v<C, LoraConfig>) {
    check_scale<S>(config, who);
    check_factors_fit<S>(out, in, config.rank, who);
  }
}

/// The adapter of a config for a layer, which does not change: what is not frozen yet is packed once it is.
template <class L, class C>
auto make_adapter(const L& layer, const C& config, Rng& rng) {
  using S = typename L::Scalar;
  using Kind = typename C::template Kind<S>;
  if constexpr (std::is_same_v<C, LoraConfig>) {
    return Kind(layer.out_features(), layer.in_features(), config, rng);
  } else {
    const AnyBase<S> base = layer.frozen() ? layer.base() : AnyBase<S>(Dense<S>(layer.dense()));
    return Kind(base, config, rng);
  }
}

/// Whether a layer shows its weight, so that an adapter can be made before it is attached.
template <class L>
concept ShowsWeight = requires(const L& layer) {
  layer.frozen();
  layer.base();
  layer.dense();
};

/// The adapters for the layers of one scalar type, in listing order.
template <class S>
struct PreparedAdapters {
  std::vector<AnyAdapter<S>> adapters;
  std::size_t next = 0;
  static Index bytes() { return 0; }
};

template <class T, class C>
Index attach(T& model, const C& config, const Targets& targets, Rng& rng, std::string_view name) {
  const std::vector<ModuleMatch> matches = match_modules(paths_of(model), config, targets, "attach", TargetWords());
  if (std::all_of(matches.begin(), matches.end(),
                  [](const ModuleMatch& match) { return match.role == ModuleMatch::Role::nothing; })) {
    fail<NameError>("attach", "the targets match no layer of the model; " + matches.front().path +
                                  ", for example: " + matches.front().reason);
  }
  // All adapters are made before the first layer changes: the constructor of a kind may refuse one of them.
  Rng drawn = rng;
  Slots prepared;
  auto match = matches.begin();
  visit_adaptable(std::as_const(model), [&](const Path&, const auto& layer) {
    using L = std::remove_cvref_t<decltype(layer)>;
    using S = typename L::Scalar;
    const ModuleMatch& own = *match++;
    layer.adapters().check_new_name(name);
    if (own.role != ModuleMatch::Role::adapter) return;
    const Caller who("attach", own.path);
    const C its_config = config_for(config, own);
    check_config<S>(its_config, layer.out_features(), layer.in_features(), who);
    if constexpr (ShowsWeight<L>) {
      auto& made = prepared.get<PreparedAdapters<S>>().adapters;
      made.emplace_back(make_adapter(layer, its_config, drawn));
      made.back().check_fits(who, layer.out_features(), layer.in_features());
    }
  });

  match = matches.begin();
  const Index changed = change_adaptable("attach", model, [&](const Path&, auto& layer) {
    using L = std::remove_reference_t<decltype(layer)>;
    using S = typename L::Scalar;
    const ModuleMatch& own = *match++;
    switch (own.role) {
      case ModuleMatch::Role::adapter:
        if constexpr (ShowsWeight<L>) {
          auto& ready = prepared.get<PreparedAdapters<S>>();
          std::optional<Vector<S>> bias;
          if (bias_of(config) != Bias::none && layer.bias() != nullptr) bias = *layer.bias();
          layer.attach(name, std::move(ready.adapters[ready.next++]), std::move(bias));
        } else {
          layer.attach(name, config_for(config, own), drawn);
        }
        break;
      case ModuleMatch::Role::full: layer.attach_full(name); break;
      case ModuleMatch::Role::bias: layer.attach_bias(name); break;
      case ModuleMatch::Role::nothing: layer.freeze(), layer.select_none(); break;
    }
    return own.role != ModuleMatch::Role::nothing;
  });
  freeze_base(model);
  rng = drawn;
  return changed;
}

}  // namespace detail

/// Prepares a model for adaptation: freezes everything that is not an adapter, which packs the weights of all layers
/// that take one, and adds to each layer what the config and the targets say (model/match.hpp): an adapter of the
/// config's kind, a trained copy, or a trained bias. The new adapter is selected, alone. A layer that is to be trained
/// further beside the adapters has its name in modules_to_save.
///
/// ```cpp
/// #include <lora/lora.hpp>
///
/// struct Net {
///   lora::Linear<float> fc1, fc2;
///   static void visit(auto& self, auto&& f) { f("fc1", self.fc1), f("fc2", self.fc2); }
/// };
///
/// int main() {
///   lora::Rng rng(1);
///   Net net{lora::Linear<float>({.in = 64, .out = 32}, rng), lora::Linear<float>({.in = 32, .out = 10}, rng)};
///   lora::attach(net, {.rank = 8, .alpha = 16}, rng);                                                // "default"
///   lora::attach(net, {.rank = 8}, {.modules = {"fc1"}}, rng, "alice");                              // one layer
///   lora::attach(net, {.rank = 4, .rank_pattern = {{"fc2", 2}}}, {.modules = "fc[12]"}, rng, "bob");  // a pattern
///   lora::select(net, "alice");
///   lora::detach(net, "bob");
///   return lora::count_parameters(net).trainable == 8 * (64 + 32) ? 0 : 1;
/// }
/// ```
///
/// Throws what match_modules throws, NameError if no layer matches or the adapter name is taken or not allowed,
/// ConfigError for a rank or scale that one layer cannot take, and what the constructor of a kind throws; model and
/// rng are unchanged then. A kind that is constructed for a layer that is not frozen sees a copy of its weight.
template <class T>
Index attach(T& model, const LoraConfig& config, const Targets& targets, Rng& rng, std::string_view name = "default") {
  return detail::attach(model, config, targets, rng, name);
}
template <class T, class C>
Index attach(T& model, const C& config, const Targets& targets, Rng& rng, std::string_view name = "default") {
  return detail::attach(model, config, targets, rng, name);
}
/// As above, in all layers that take adapters.
template <class T>
Index attach(T& model, const LoraConfig& config, Rng& rng, std::string_view name = "default") {
  return detail::attach(model, config, Targets(), rng, name);
}

/// Selects one adapter wherever it exists, and the base alone everywhere else. Throws NameError if no layer has it.
template <class T>
Index select(T& model, std::string_view name) {
  detail::check_has_adapter(model, "select", name);
  return detail::change_adaptable("select", model, [&](const Path&, auto& layer) {
    const bool has = layer.adapters().contains(name);
    has ? layer.select(name) : layer.select_none();
    return has;
  });
}

/// Selects a weighted sum, in each layer of the adapters that it has: select_sum(net, {{"formal", 0.7}, {"legal",
/// 0.3}}). Throws NameError for a name that no layer has, ConfigError for a weight that one layer cannot take or a kind
/// that cannot be summed; it changes nothing then.
template <class T>
Index select_sum(T& model, const std::vector<AdapterWeight>& chosen) {
  for (const AdapterWeight& one : chosen) detail::check_has_adapter(model, "select_sum", one.name);
  const auto own = [&](const auto& layer) {
    std::vector<AdapterWeight> there;
    std::copy_if(chosen.begin(), chosen.end(), std::back_inserter(there),
                 [&](const AdapterWeight& one) { return layer.adapters().contains(one.name); });
    return there;
  };
  visit_adaptable(std::as_const(model),
                  [&](const Path&, const auto& layer) { layer.adapters().check_sum(own(layer)); });
  return detail::change_adaptable("select_sum", model, [&](const Path&, auto& layer) {
    const auto there = own(layer);
    layer.select_sum(there);
    return !there.empty();
  });
}

/// Selects the base model, bit for bit.
template <class T>
Index select_none(T& model) {
  return detail::change_adaptable("select_none", model, [](const Path&, auto& layer) {
    const bool selected = !layer.adapters().selection()->choices.empty();
    layer.select_none();
    return selected;
  });
}

/// Removes an adapter from every layer that has it. Throws NameError if none has.
template <class T>
Index detach(T& model, std::string_view name) {
  detail::check_has_adapter(model, "detach", name);
  return detail::change_adaptable("detach", model, [&](const Path&, auto& layer) {
    const bool has = layer.adapters().contains(name);
    if (has) layer.detach(name);
    return has;
  });
}

}  // namespace lora::inline LORA_ABI
