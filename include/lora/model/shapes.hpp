#pragma once
/// The shapes of a model, found by walking its listing, for the accounting.

#include "lora/adapters/adapted.hpp"
#include "lora/model/accounting.hpp"
#include "lora/nn/linear.hpp"

#include <string>
#include <type_traits>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

/// Adds the count() of an adapter to a shape.
inline void add_adapter(LayerShape& shape, const AdapterCount& count, bool selected) {
  const Index of_rank = count.rank * (shape.in + shape.out);
  if (!selected) {
    shape.idle += of_rank + count.trained + count.constant;
    return;
  }
  shape.rank += count.rank;
  shape.inert = shape.inert || count.inert;
  shape.frozen_a += count.frozen_a;
  shape.frozen_b += count.frozen_b;
  if (count.replaces && count.trained > 0) {
    shape.trained = true;  // counted as W; the base under it is kept
    shape.idle += count.trained + count.constant;
  } else {
    shape.extra += count.trained;
    shape.idle += count.constant;
  }
}

template <class P>
void add_bias_copy(LayerShape& shape, const P& bias, bool selected) {
  (selected && bias.trainable ? shape.extra : shape.idle) += bias.value.size();
}

}  // namespace detail

/// A Linear layer as it stands: trained, frozen, or with its selected adapters.
///
/// For a custom layer, define the same function in its namespace (found by argument-dependent lookup); otherwise its
/// tensors are counted as parameters and bytes, without operations.
template <class S>
LayerShape layer_shape(const Linear<S>& layer) {
  LayerShape shape{.out = layer.out_features(), .in = layer.in_features(), .bias = layer.bias() != nullptr};
  shape.bytes_per_number = sizeof(S);
  if (layer.frozen()) shape.weight_bytes = layer.weight_bytes();
  visit_parameters(layer, [&](const Path& path, const auto& parameter) {
    if (path.in_adapter()) return;
    (path.ends_with("weight") ? shape.trained : shape.trained_bias) = parameter.trainable;
  });
  for (const auto& member : layer.adapters().members()) {
    const bool selected = layer.adapters().selects(member->name);
    detail::add_adapter(shape, member->adapter.count(), selected);
    if (member->bias) detail::add_bias_copy(shape, *member->bias, selected);
  }
  return shape;
}

/// The static form: a frozen base with one adapter.
template <class Base, class A>
LayerShape layer_shape(const Adapted<Base, A>& layer) {
  LayerShape shape{.out = layer.out_features(), .in = layer.in_features(), .bias = layer.bias() != nullptr};
  shape.bytes_per_number = sizeof(typename Base::Scalar);
  shape.weight_bytes = layer.base().bytes();
  if constexpr (requires { layer.adapter().count(); }) {
    detail::add_adapter(shape, layer.adapter().count(), layer.enabled());
  } else {
    visit_parameters(layer.adapter(), [&](const Path&, const auto& parameter) {
      (layer.enabled() && parameter.trainable ? shape.extra : shape.idle) += parameter.value.size();
    });
  }
  visit_parameters(layer, [&](const Path& path, const auto& parameter) {
    if (path.ends_with("adapter_bias")) detail::add_bias_copy(shape, parameter, layer.enabled());
  });
  return shape;
}

namespace detail {

template <class T>
concept HasLayerShape = requires(const T& module) {
  { layer_shape(module) } -> std::same_as<LayerShape>;
};

template <class T>
LayerShape tensor_shape(const Path& path, const T& tensor) {
  LayerShape shape{.name = path.str(), .product = false};
  const auto fill = [&](const auto& matrix, bool trained) {
    using S = typename std::remove_cvref_t<decltype(matrix)>::Scalar;
    shape.bytes_per_number = sizeof(S);
    if (path.in_adapter()) {
      (trained ? shape.extra : shape.idle) = matrix.rows() * matrix.cols();
      return;
    }
    shape.out = matrix.rows();
    shape.in = matrix.cols();
    shape.trained = trained;
  };
  if constexpr (ParameterLike<T>) {
    fill(tensor.value, is_trained(path, tensor));
  } else {
    fill(tensor, false);
  }
  return shape;
}

}  // namespace detail

/// One LayerShape for every linear layer and every tensor outside of them, in listing order, by their names.
/// count_parameters(model) equals account(shapes_of(model), N).current.parameters.
template <class T>
std::vector<LayerShape> shapes_of(const T& model) {
  std::vector<LayerShape> shapes;
  Index counted = 0;  // upcoming tensors of a layer that is counted already
  walk(
      model,
      [&](const Path& path, const auto& tensor) {
        if (counted > 0) {
          --counted;
        } else {
          shapes.push_back(detail::tensor_shape(path, tensor));
        }
      },
      [&](const Path& path, const auto& module) {
        if constexpr (detail::HasLayerShape<std::remove_cvref_t<decltype(module)>>) {
          if (counted > 0) return;
          shapes.push_back(layer_shape(module));
          shapes.back().name = path.str();
          visit_tensors(module, [&](const Path&, const auto&) { ++counted; });
        }
      });
  return shapes;
}

}  // namespace lora::inline LORA_ABI
