#pragma once
/// What a layer must offer to receive adapters by name.

#include "lora/adapters/adapter_set.hpp"
#include "lora/core/visit.hpp"

#include <concepts>
#include <string_view>
#include <type_traits>

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
  { layer.bias() != nullptr } -> std::convertible_to<bool>;
  { layer.adapters().contains(name) } -> std::convertible_to<bool>;
  layer.adapters().check_new_name(name);
  { layer.out_features() } -> std::convertible_to<Index>;
  { layer.in_features() } -> std::convertible_to<Index>;
  requires Scalar<typename L::Scalar>;
};

/// f(path, layer) for every adaptable layer of the model, in listing order.
template <class T, class F>
void visit_adaptable(T& model, F&& f) {
  visit_modules(model, [&](const Path& path, auto& module) {
    if constexpr (Adaptable<std::remove_cvref_t<decltype(module)>>) f(path, module);
  });
}

}  // namespace lora
