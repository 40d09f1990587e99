#pragma once
// Models for the tests of PEFT adapters.

#include "lora/core/parameters.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/nn/linear.hpp"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora_test {

/// Linear layers by any names, such as "h.0.attn.c_attn".
template <class S>
struct Layers {
  std::vector<std::pair<std::string, lora::Linear<S>>> layers;

  Layers(const std::vector<std::pair<std::string, lora::LinearShape>>& shapes, lora::Rng& rng) {
    for (const auto& [name, shape] : shapes) layers.emplace_back(name, lora::Linear<S>(shape, rng));
  }
  /// From a file with NAME.weight (out, in) and perhaps NAME.bias.
  explicit Layers(const lora::Safetensors& base) {
    for (const auto& tensor : base.tensors()) {
      if (!tensor.name.ends_with(".weight")) continue;
      const std::string name = tensor.name.substr(0, tensor.name.size() - 7);
      std::optional<lora::Vector<S>> bias;
      if (base.find(name + ".bias") != nullptr) bias = base.read<S>(name + ".bias");
      layers.emplace_back(name, lora::Linear<S>(base.read<S>(tensor.name), std::move(bias)));
    }
  }

  lora::Linear<S>& operator[](const std::string& name) {
    for (auto& [own, layer] : layers) {
      if (own == name) return layer;
    }
    throw std::runtime_error("no layer " + name);
  }
  static void visit(auto& self, auto&& f) {
    for (auto& [name, layer] : self.layers) f(lora::Name(name), layer);
  }
};

/// fc1 (6, 4), fc2 (5, 6) without bias, block.fc1 (3, 5), head (2, 3)
template <class S>
Layers<S> small_model(std::uint64_t seed = 1) {
  lora::Rng rng(seed);
  return Layers<S>({{"fc1", {.in = 4, .out = 6}},
                    {"fc2", {.in = 6, .out = 5, .bias = false}},
                    {"block.fc1", {.in = 5, .out = 3}},
                    {"head", {.in = 3, .out = 2}}},
                   rng);
}

/// Adds something to every number of every adapter, as training would.
template <class T>
void change_adapters(T& model, std::uint64_t seed = 2) {
  lora::Rng rng(seed);
  lora::visit_parameters(model, [&](const lora::Path& path, auto& parameter) {
    if (!path.in_adapter()) return;
    auto change = parameter.value.eval();
    lora::fill_uniform(change, 0.5, rng);
    parameter.value += change;
  });
}

/// All numbers of all tensors, constants too, with their names, as text: equal if and only if the models are.
template <class T>
std::string contents(const T& model) {
  std::string text;
  lora::visit_tensors(model, [&](const lora::Path& path, const auto& tensor) {
    text += path.str();
    text += path.active() ? "+" : "-";
    const auto append = [&](const auto& matrix) {
      text.append(reinterpret_cast<const char*>(matrix.data()),
                  static_cast<std::size_t>(matrix.size()) * sizeof(*matrix.data()));
    };
    if constexpr (lora::ParameterLike<std::remove_cvref_t<decltype(tensor)>>) {
      text += tensor.trainable ? "t" : "f";
      append(tensor.value);
    } else if constexpr (requires { tensor.dense(); }) {
      append(tensor.dense());
    } else if constexpr (requires { tensor.columns(tensor.cols(), tensor.cols()); }) {
      append(tensor.columns(0, tensor.cols()));
    } else {
      append(tensor);
    }
  });
  return text;
}

}  // namespace lora_test
