#pragma once
/// Looks up handles: adapters for a pass, whatever is selected (core/adapter_handle.hpp).

#include "lora/core/adapter_handle.hpp"
#include "lora/model/adaptable.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

namespace lora::inline LORA_ABI {

namespace detail {

template <class T>
AdapterHandle make_handle(const T& model, std::string name, auto&& choice_of) {
  auto table = std::make_shared<HandleTable>();
  table->name = std::move(name);
  visit_adaptable(model, [&](const Path&, const auto& layer) {
    const auto choice = choice_of(layer);
    table->layers.push_back({layer.number(), choice});
    if (choice == nullptr) return;
    for (const auto& one : choice->choices) table->parts.push_back(one.part->number);
  });
  std::sort(table->parts.begin(), table->parts.end());
  std::sort(table->layers.begin(), table->layers.end(),
            [](const auto& a, const auto& b) { return a.number < b.number; });
  return AdapterHandle(std::move(table));
}

}  // namespace detail

/// One adapter of a whole model, by its name. Layers without it compute the base. Must not run concurrently with
/// attach, select or detach. Throws NameError, which lists the existing names, if no layer has it.   Cost: one walk.
template <class T>
AdapterHandle adapter(const T& model, std::string_view name) {
  detail::check_has_adapter(model, "adapter", name);
  return detail::make_handle(model, std::string(name), [&](const auto& layer) { return layer.adapters().alone(name); });
}

/// The current selection of each layer, as a handle. Throws NameError if the model has no layer that takes adapters.
template <class T>
AdapterHandle selected(const T& model) {
  AdapterHandle handle =
      detail::make_handle(model, "(selected)", [](const auto& layer) { return layer.adapters().selection(); });
  if (handle.table()->layers.empty()) {
    throw NameError("selected: the model has no layer that takes adapters");
  }
  return handle;
}

}  // namespace lora::inline LORA_ABI
