#pragma once
/// Functions that need only a model's listing: count, name, freeze, zero, gather.

#include "lora/core/adapter_handle.hpp"
#include "lora/core/error.hpp"
#include "lora/core/visit.hpp"

#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

/// Elements in a model: those that an optimizer would train now; all, with frozen weights and inactive adapters.
struct ParameterCount {
  Index trainable = 0;
  Index total = 0;
  double percent() const {
    return total == 0 ? 0.0 : 100.0 * static_cast<double>(trainable) / static_cast<double>(total);
  }
};

template <class T>
ParameterCount count_parameters(const T& model) {
  ParameterCount count;
  visit_tensors(model, [&](const Path& path, const auto& tensor) {
    if constexpr (ParameterLike<std::remove_reference_t<decltype(tensor)>>) {
      count.total += tensor.value.size();
      if (is_trained(path, tensor)) count.trainable += tensor.value.size();
    } else {
      count.total += tensor.rows() * tensor.cols();
    }
  });
  return count;
}

/// The names of all parameters and constants, in listing order.
template <class T>
std::vector<std::string> tensor_names(const T& model) {
  std::vector<std::string> names;
  visit_tensors(model, [&](const Path& path, const auto&) { names.push_back(path.str()); });
  return names;
}

namespace detail {

void freeze_parameter(ParameterLike auto& parameter) {
  parameter.trainable = false;
  parameter.drop_gradient();
}

}  // namespace detail

/// Stops training every parameter, and frees the memory of the gradients.
template <class T>
void freeze(T& model) {
  visit_parameters(model, [](const Path&, auto& parameter) { detail::freeze_parameter(parameter); });
}

/// Freezes every parameter that does not belong to an adapter.
template <class T>
void freeze_base(T& model) {
  visit_parameters(model, [](const Path& path, auto& parameter) {
    if (!path.in_adapter()) detail::freeze_parameter(parameter);
  });
}

/// Makes every parameter trainable. A weight in a shared frozen base is not a parameter any more and stays frozen.
template <class T>
void unfreeze(T& model) {
  visit_parameters(model, [](const Path&, auto& parameter) { parameter.trainable = true; });
}

/// Sets all gradients to zero; those that are not allocated yet stay empty.
template <class T>
void zero_gradients(T& model) {
  visit_parameters(model, [](const Path&, auto& parameter) { detail::fill_with_zeros(parameter.grad); });
}

namespace detail {

/// Whether the handle's adapter owns this parameter and it is trainable; for an empty handle, is_trained.
template <ParameterLike P>
bool is_trained_for(const AdapterHandle& adapter, const Path& path, const P& parameter) {
  return adapter ? parameter.trainable && adapter.has(path.adapter()) : is_trained(path, parameter);
}

/// Throws NameError if the model has no part of the handle's adapter, because it was detached or is another model's.
template <class T>
void check_has_parts(const Caller& who, const T& model, const AdapterHandle& adapter) {
  if (!adapter) return;
  bool found = false;
  visit_parameters(model, [&](const Path& path, const auto&) { found = found || adapter.has(path.adapter()); });
  if (found) return;
  fail<NameError>(who, adapter.is_base_alone() ? "base_alone has nothing to train, expected the handle of an adapter"
                                               : "the model has no part of adapter " + in_quotes(adapter.name()) +
                                                     ": it was detached, or the handle belongs to another model");
}

}  // namespace detail

/// Sets the gradients of one adapter to zero, whatever is selected; all gradients for an empty handle. Throws NameError
/// if the model has no part of the adapter.
template <class T>
void zero_gradients(T& model, const AdapterHandle& adapter) {
  detail::check_has_parts("zero_gradients", model, adapter);
  visit_parameters(model, [&](const Path& path, auto& parameter) {
    if (!adapter || adapter.has(path.adapter())) detail::fill_with_zeros(parameter.grad);
  });
}

/// One trained parameter as flat memory, in its own storage order.
template <class S>
struct ParameterView {
  std::string name;
  Eigen::Map<Vector<S>> value;
  Eigen::Map<Vector<S>> grad;  // of size 0 until a backward pass has reached the parameter
};

/// The trained parameters in listing order, for a custom optimizer. The views point into the model: they are
/// invalid as soon as the model moves or an adapter is attached, detached or selected.
template <class S, class T>
std::vector<ParameterView<S>> gather(T& model) {
  std::vector<ParameterView<S>> views;
  visit_parameters(model, [&](const Path& path, auto& parameter) {
    if (!is_trained(path, parameter)) return;
    views.push_back({path.str(), Eigen::Map<Vector<S>>(parameter.value.data(), parameter.value.size()),
                     Eigen::Map<Vector<S>>(parameter.grad.data(), parameter.grad.size())});
  });
  return views;
}

}  // namespace lora::inline LORA_ABI
