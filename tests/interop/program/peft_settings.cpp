// The C++ half of tests/interop/settings.py: one line for each adapter in FOLDER, in the order of their names.
//
//   peft_settings BASE FOLDER      NAME <tab> loads <tab> numbers of all outputs, or NAME <tab> refuses <tab> why
//
// BASE holds for each layer its weight (out, in), its bias, and an input (samples, in).

#include "lora/io/load_adapter.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/nn/linear.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Layers {
  std::vector<std::pair<std::string, lora::Linear<double>>> layers;
  static void visit(auto& self, auto&& f) {
    for (auto& [path, layer] : self.layers) f(lora::Name(path), layer);
  }
};

Layers layers_of(const lora::Safetensors& base) {
  constexpr std::string_view end = ".weight";
  Layers model;
  for (const auto& tensor : base.tensors()) {
    if (!tensor.name.ends_with(end)) continue;
    const std::string path = tensor.name.substr(0, tensor.name.size() - end.size());
    model.layers.emplace_back(path, lora::Linear<double>(base.read<double>(tensor.name),
                                                         lora::Vector<double>(base.read<double>(path + ".bias"))));
  }
  return model;
}

std::string verdict(const lora::Safetensors& base, const std::filesystem::path& adapter) {
  Layers model = layers_of(base);
  try {
    lora::load_adapter(model, adapter);
  } catch (const std::exception& error) {
    std::string why = error.what();
    std::replace(why.begin(), why.end(), '\n', ' ');
    return "refuses\t" + why;
  }
  std::string text = "loads\t";
  for (const auto& [path, layer] : model.layers) {
    const lora::Matrix<double> y = layer(lora::Matrix<double>(base.read<double>(path + ".input").transpose()));
    for (const double number : y.reshaped()) {
      char buffer[40];
      std::snprintf(buffer, sizeof buffer, "%.17g ", number);
      text += buffer;
    }
  }
  return text;
}

}  // namespace

int main(int count, char** given) {
  if (count != 3) {
    std::fputs("peft_settings BASE FOLDER\n", stderr);
    return 2;
  }
  try {
    const auto base = lora::Safetensors::open(given[1]);
    std::vector<std::filesystem::path> adapters;
    for (const auto& entry : std::filesystem::directory_iterator(given[2])) adapters.push_back(entry.path());
    std::sort(adapters.begin(), adapters.end());
    for (const auto& adapter : adapters) {
      std::printf("%s\t%s\n", adapter.filename().c_str(), verdict(base, adapter).c_str());
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
