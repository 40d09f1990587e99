// The C++ half of tests/interop/judge.py: a model of named linear layers, adapted, saved, loaded and run.
//
//   peft_layers SCALAR load BASE ADAPTER OUT [AGAIN]      loads ADAPTER; with AGAIN, saves it there
//   peft_layers SCALAR save BASE ADAPTER OUT SETTING=...  attaches a new adapter and saves it
//   peft_layers SCALAR train BASE ADAPTER OUT STEPS       trains ADAPTER of the MLP fc1, fc2, ... in BASE, and saves it
//
// BASE holds for each layer its weight (out, in), perhaps its bias, and an input (samples, in); OUT receives its output
// (samples, out). SETTING: targets, full (names with commas), rank, alpha, ranks, alphas (name:value), rslora, bias,
// dtype, fan_in_fan_out, base, task.

#include "lora/io/load_adapter.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/io/save_adapter.hpp"
#include "lora/losses/mean_squared_error.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/optim/adam.hpp"

#include <cstdio>
#include <exception>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

template <class S>
struct Layers {
  std::vector<std::pair<std::string, lora::Linear<S>>> layers;

  explicit Layers(const lora::Safetensors& base) {
    for (const auto& tensor : base.tensors()) {
      constexpr std::string_view end = ".weight";
      if (!tensor.name.ends_with(end)) continue;
      const std::string path = tensor.name.substr(0, tensor.name.size() - end.size());
      std::optional<lora::Vector<S>> bias;
      if (base.find(path + ".bias") != nullptr) bias = base.read<S>(path + ".bias");
      layers.emplace_back(path, lora::Linear<S>(base.read<S>(tensor.name), std::move(bias)));
    }
  }
  static void visit(auto& self, auto&& f) {
    for (auto& [path, layer] : self.layers) f(lora::Name(path), layer);
  }
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

template <class T>
std::vector<std::pair<std::string, T>> table(const std::string& text) {
  std::vector<std::pair<std::string, T>> entries;
  for (const std::string& entry : split(text)) {
    const auto colon = entry.find(':');
    entries.emplace_back(entry.substr(0, colon), static_cast<T>(std::stod(entry.substr(colon + 1))));
  }
  return entries;
}

template <class S>
void attach(Layers<S>& model, std::map<std::string, std::string> given) {
  lora::LoraConfig config;
  if (given.count("rank")) config.rank = std::stol(given["rank"]);
  if (given.count("alpha")) config.alpha = std::stod(given["alpha"]);
  if (given.count("rslora")) config.scaling = lora::Scaling::alpha_over_sqrt_rank;
  if (given["bias"] == "all") config.bias = lora::Bias::all;
  if (given["bias"] == "lora_only") config.bias = lora::Bias::lora_only;
  lora::Targets targets;
  targets.modules = split(given["targets"]);
  targets.modules_to_save = split(given["full"]);
  config.rank_pattern = table<lora::Index>(given["ranks"]);
  config.alpha_pattern = table<double>(given["alphas"]);
  lora::Rng rng(7);
  lora::attach(model, config, targets, rng);
  // As after some training: nothing is zero, and no bias is the base's.
  lora::visit_parameters(model, [&](const lora::Path& path, auto& parameter) {
    if (!path.in_adapter()) return;
    lora::Matrix<S> change = parameter.value;
    lora::fill_uniform(change, 0.5, rng);
    parameter.value += change;
  });
}

/// AdamW with lr 0.01 on the mean squared error of all samples, tensors "x" and "y" of BASE.
template <class S>
int train(const lora::Safetensors& base, const std::vector<std::string>& arguments) {
  std::vector<lora::Linear<S>> layers;
  for (auto& [path, layer] : Layers<S>(base).layers) layers.push_back(std::move(layer));
  lora::Mlp<lora::Linear<S>> model(std::move(layers));
  const auto config = lora::load_adapter(model, arguments[2]);
  const lora::Matrix<S> x = base.read<S>("x").transpose(), y = base.read<S>("y").transpose();
  lora::AdamW<S> optimizer({.lr = 0.01});
  typename lora::Mlp<lora::Linear<S>>::Cache cache;
  lora::Matrix<S> dy;
  for (int step = 0; step < std::stoi(arguments[4]); ++step) {
    lora::mean_squared_error(model.forward(x, cache), y, &dy);
    model.backward(x, dy, cache, lora::no_gradient);
    optimizer.step(model);
    lora::zero_gradients(model);
  }
  lora::save_adapter(model, arguments[3], {.config = config});
  return 0;
}

template <class S>
int run(const std::vector<std::string>& arguments) {
  const auto base = lora::Safetensors::open(arguments[1]);
  if (arguments[0] == "train") return train<S>(base, arguments);
  Layers<S> model(base);
  const std::string& adapter = arguments[2];
  if (arguments[0] == "load") {
    const auto config = lora::load_adapter(model, adapter);
    if (arguments.size() > 4) lora::save_adapter(model, arguments[4], {.config = config});
  } else {
    std::map<std::string, std::string> given;
    for (std::size_t k = 4; k < arguments.size(); ++k) {
      const auto equals = arguments[k].find('=');
      given[arguments[k].substr(0, equals)] = arguments[k].substr(equals + 1);
    }
    attach(model, given);
    lora::SaveAdapterOptions options;
    if (given.count("base")) options.base_model_name_or_path = given["base"];
    if (given.count("task")) options.task_type = given["task"];
    if (given.count("fan_in_fan_out")) options.fan_in_fan_out = true;
    if (given.count("dtype")) options.dtype = lora::find_dtype(given["dtype"]);
    lora::save_adapter(model, adapter, options);
  }
  std::vector<lora::TensorToSave> outputs;
  for (const auto& [path, layer] : model.layers) {
    const lora::Matrix<S> x = base.read<S>(path + ".input").transpose();
    outputs.emplace_back(path, lora::Matrix<S>(layer(x).transpose()));
  }
  lora::save_safetensors(arguments[3], outputs);
  return 0;
}

}  // namespace

int main(int count, char** given) {
  const std::vector<std::string> arguments(given + 1, given + count);
  if (arguments.size() < 5) {
    std::fputs("peft_layers float|double load|save|train BASE ADAPTER OUT ...\n", stderr);
    return 2;
  }
  try {
    const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
    return arguments[0] == "float" ? run<float>(rest) : run<double>(rest);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
