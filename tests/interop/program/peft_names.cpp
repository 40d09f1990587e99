// The C++ half of tests/interop/names.py: what attach and load_adapter give to each layer of many small models.
//
//   peft_names CASES FOLDER      one line of JSON for each case; FOLDER is for files
//
// CASES is a JSON array of objects: paths, those of the layers; config and fitting, two of adapter_config.json;
// tensors, the names and shapes in adapter_model.safetensors. A line has attach (of config), attach_fitting (of
// fitting) and load (of config and tensors), each an object from path to [rank, scale], or to [0, 0] for a layer that
// is trained in full, or a text: why it is refused.

#include "lora/io/load_adapter.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "lora/model/attach.hpp"
#include "lora/nn/linear.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Layers {
  std::vector<std::pair<std::string, lora::Linear<double>>> layers;

  explicit Layers(const std::vector<std::string>& paths) {
    for (const std::string& path : paths)
      layers.emplace_back(path, lora::Linear<double>(lora::Matrix<double>(lora::Matrix<double>::Zero(2, 2))));
  }
  static void visit(auto& self, auto&& f) {
    for (auto& [path, layer] : self.layers) f(lora::Name(path), layer);
  }
};

/// What the adapter "default" is after change(model), for every layer that has it.
nlohmann::json result_of(const nlohmann::ordered_json& one, auto&& change) {
  Layers model(one.at("paths").get<std::vector<std::string>>());
  try {
    change(model);
  } catch (const lora::Error& error) {
    return error.what();
  }
  nlohmann::json result = nlohmann::json::object();
  for (const auto& [path, layer] : model.layers) {
    if (!layer.adapters().contains("default")) continue;
    const auto& adapter = layer.adapters().at("default").adapter;
    if (const auto* factors = adapter.template as<lora::Lora<double>>()) {
      result[path] = {factors->rank(), factors->scale()};
    } else if (adapter.template as<lora::FullWeight<double>>() != nullptr) {
      result[path] = {0, 0};
    } else {
      result[path] = "of another kind";
    }
  }
  return result;
}

void write_adapter(const nlohmann::ordered_json& one, const std::filesystem::path& folder) {
  std::ofstream(folder / "adapter_config.json", std::ios::binary) << one.at("config").dump();
  std::vector<lora::TensorToSave> tensors;
  for (const auto& [name, shape] : one.at("tensors").items()) {
    tensors.emplace_back(name, lora::Matrix<double>(lora::Matrix<double>::Ones(shape.at(0), shape.at(1))));
  }
  std::ofstream file(folder / "adapter_model.safetensors", std::ios::binary);
  lora::write_safetensors(
      [&](std::span<const std::byte> bytes) {
        file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
      },
      tensors);
}

}  // namespace

int main(int count, char** given) {
  if (count != 3) {
    std::fputs("peft_names CASES FOLDER\n", stderr);
    return 2;
  }
  try {
    const std::filesystem::path folder = given[2];
    std::ifstream file(given[1]);
    for (const auto& one : nlohmann::ordered_json::parse(file)) {
      nlohmann::json line;
      for (const auto& [verb, key] : {std::pair("attach", "config"), std::pair("attach_fitting", "fitting")}) {
        line[verb] = result_of(one, [&, key = key](Layers& model) {
          const auto config = lora::parse_peft_config("config", one.at(key).dump());
          lora::Rng rng(1);
          lora::attach(model, config.lora, config.targets, rng);
        });
      }
      write_adapter(one, folder);
      line["load"] = result_of(one, [&](Layers& model) { lora::load_adapter(model, folder); });
      std::puts(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
