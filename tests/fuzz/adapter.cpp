// Any two files as an adapter, adapter_config.json and adapter_model.safetensors: it is loaded, and saved again it is
// loaded again, or the model stays as it was.
#include "support.hpp"

#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::Folder folder;
  static const fuzz::Net base;
  const fuzz::HeapLimit limit(size);
  const auto files = fuzz::files_in({reinterpret_cast<const char*>(data), size}, 2);
  folder.write("adapter_config.json", files[0]);
  folder.write("adapter_model.safetensors", files[1]);
  fuzz::Net model = base;
  lora::PeftConfig config;
  if (!fuzz::loads(model,
                   [&](auto& to) { config = lora::load_adapter(to, folder.path(), {.allow_non_finite = true}); })) {
    return 0;
  }
  for (auto& [name, layer] : model.linear.layers) layer(lora::Matrix<float>::Ones(layer.in_features(), 1));
  const auto there = folder.path() / "again";
  try {
    lora::save_adapter(model, there, {.config = config, .allow_non_finite = true});
  } catch (const lora::Error&) {
    return 0;  // what PEFT cannot express
  }
  fuzz::Net again = base;
  lora::load_adapter(again, there, {.allow_non_finite = true});
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  fuzz::Random random(seed);
  const auto files = fuzz::files_in({reinterpret_cast<const char*>(data), size}, 2);
  std::string config(files[0]), weights(files[1]);
  switch (random() % 4) {
    case 0: config = fuzz::mutated(config, most); break;
    case 1: config = fuzz::with_other_number(config, random); break;
    default: weights = fuzz::mutated_safetensors(weights, most, random);
  }
  return fuzz::store(config + std::string(fuzz::next_file) + weights, data, most);
}
