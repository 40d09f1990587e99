#pragma once
/// The concept of a layer that receives adapters by name.

#include "lora/core/error.hpp"
#include "lora/core/visit.hpp"
#include "lora/nn/linear.hpp"

#include <concepts>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>

namespace lora::inline LORA_ABI {

/// A layer that can hold named adapters, such as Linear. A custom layer offers the same calls, most through an
/// AdapterSet.
template <class L>
concept Adaptable = requires(L& layer, const L& constant, std::string_view name, const LoraConfig& config, Rng& rng,
                             AnyAdapter<typename L::Scalar> adapter, std::optional<Vector<typename L::Scalar>> bias) {
  layer.attach(name, config, rng);
  layer.attach(name, std::move(adapter), std::move(bias));
  layer.attach_full(name);
  layer.attach_bias(name);
  layer.detach(name);
  layer.select(name);
  layer.select_none();
  layer.freeze();
  { constant.bias() != nullptr } -> std::convertible_to<bool>;
  { constant.adapters() } -> std::same_as<const AdapterSet<typename L::Scalar>&>;
  { constant.number() } -> std::convertible_to<std::uint64_t>;
  { constant.out_features() } -> std::convertible_to<Index>;
  { constant.in_features() } -> std::convertible_to<Index>;
  requires Scalar<typename L::Scalar>;
};

/// Calls f(path, layer) for every adaptable layer of the model, in listing order.
template <class T, class F>
void visit_adaptable(T& model, F&& f) {
  visit_modules(model, [&](const Path& path, auto& module) {
    if constexpr (Adaptable<std::remove_cvref_t<decltype(module)>>) f(path, module);
  });
}

namespace detail {

/// Calls f(path, layer) likewise; returns for how many layers f returned true. Throws NameError if the model has no
/// layer that takes adapters: a call that can do nothing is a mistake.
template <class T, class F>
Index change_adaptable(const Caller& who, T& model, F&& f) {
  Index layers = 0, changed = 0;
  visit_adaptable(model, [&](const Path& path, auto& layer) {
    ++layers;
    if (f(path, layer)) ++changed;
  });
  if (layers == 0) fail<NameError>(who, "the model has no layer that takes adapters");
  return changed;
}

/// Throws NameError: no layer has an adapter of this name. names: those that there are, if any layer takes adapters.
[[noreturn]] inline void fail_no_adapter(const Caller& who, std::string_view name, bool any_layer,
                                         const std::set<std::string>& names) {
  if (!any_layer) fail<NameError>(who, "the model has no layer that takes adapters");
  std::string known;
  for (const std::string& one : names) known += (known.empty() ? "" : ", ") + in_quotes(one);
  fail<NameError>(who, "no layer of the model has an adapter " + in_quotes(name) +
                           (known.empty() ? ": none has been attached" : ", expected one of " + known));
}

/// Throws NameError unless some layer of the model has an adapter of this name; the message lists the existing names.
template <class T>
void check_has_adapter(const T& model, const Caller& who, std::string_view name) {
  bool found = false, any = false, listing = false;
  std::set<std::string> names;
  const auto look = [&](const Path&, const auto& layer) {
    any = true;
    found = found || layer.adapters().contains(name);
    if (!listing) return;
    for (const auto& member : layer.adapters().members()) names.insert(member->name);
  };
  visit_adaptable(model, look);
  if (found) return;
  listing = true;  // only on failure: a server looks up each of a thousand adapters
  visit_adaptable(model, look);
  fail_no_adapter(who, name, any, names);
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
