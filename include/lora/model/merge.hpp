#pragma once
/// Folds the selected adapters of a model into its weights: the same outputs without adapters.

#include "lora/core/finite.hpp"
#include "lora/model/adaptable.hpp"
#include "lora/nn/linear.hpp"

#include <algorithm>
#include <concepts>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// A frozen layer without adapters that computes what `layer` computes now: its weight is layer.merged(), held by a
/// base of the same kind as W0, or W0 itself, shared, if no adapter is selected. For a custom layer, define the same
/// function in its namespace (found by argument-dependent lookup).
template <class S>
Linear<S> merged_layer(const Linear<S>& layer) {
  if (layer.adapters().selection()->choices.empty()) {
    Linear<S> bare = layer;
    for (const auto& member : layer.adapters().members()) bare.detach(member->name);
    return bare;
  }
  std::optional<Vector<S>> bias;
  if (layer.bias() != nullptr) bias = layer.merged_bias();
  return Linear<S>(layer.base().like(layer.merged()), std::move(bias));
}

struct MergeOptions {
  /// Folds infinity and NaN of an adapter into the weights instead of refusing them.
  bool allow_non_finite = false;
};

namespace detail {

/// Throws ValueError naming layer, adapter, tensor and place, unless all numbers of the selected adapters are finite.
template <class L>
void check_selected_finite(const Caller& who, const std::string& path, const L& layer) {
  using S = typename L::Scalar;
  constexpr std::string_view advice = "; MergeOptions{.allow_non_finite = true} merges them as they are";
  const auto now = layer.adapters().selection();
  for (const auto& choice : now->choices) {
    const std::string of = " of adapter " + in_quotes(choice.part->name) + " in layer " + path;
    std::as_const(choice.part->adapter).tensors([&](const AdapterTensor<const S>& tensor) {
      check_finite(who, std::string(tensor.name) + of, tensor.value, advice);
    });
    if (choice.part->bias) check_finite(who, "the bias" + of, choice.part->bias->value, advice);
  }
}

}  // namespace detail

/// Folds the selected adapters into the weights and biases of all layers, and drops all adapters. The old weights do
/// not change: their other owners keep them. Returns how many layers had adapters.
///
///   auto deployed = net;
///   lora::merge(deployed);
///
/// All new weights exist before the first layer changes; if memory runs out, nothing has changed. Throws NameError if
/// the model has no layer that takes adapters, ValueError for infinity and NaN in a selected adapter, naming the place;
/// the base is not looked at. Cost: for each selected adapter 2 out rank in operations a layer.
template <class T>
Index merge(T& model, const MergeOptions& options = {}) {
  std::vector<std::function<void()>> replacements;
  const Index changed = detail::change_adaptable("merge", model, [&](const Path& path, auto& layer) {
    using Layer = std::remove_cvref_t<decltype(layer)>;
    static_assert(
        requires {
          { merged_layer(layer) } -> std::same_as<Layer>;
        }, "lora: to be merged, a layer needs a function `Layer merged_layer(const Layer&)` beside it");
    if (layer.adapters().empty()) return false;
    if (!options.allow_non_finite) detail::check_selected_finite("merge", path.str(), std::as_const(layer));
    replacements.push_back([&layer, merged = merged_layer(layer)]() mutable { layer = std::move(merged); });
    return true;
  });
  for (const auto& replace : replacements) replace();
  return changed;
}

}  // namespace lora::inline LORA_ABI
