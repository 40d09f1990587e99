// Any bytes as the weights of a model: they are loaded, and saved again they are loaded again, or the model stays as it
// was.
#include "support.hpp"

#include <memory>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::Folder folder;
  static const fuzz::Net base;
  static const lora::WeightNames ways[] = {
      {}, {.prefixes = {{"model.", "m."}}, .transposed = {"fc1", "fc2"}, .ignored = ".*head.*"}};
  const fuzz::HeapLimit limit(size);
  std::unique_ptr<lora::Safetensors> file;
  try {
    file = std::make_unique<lora::Safetensors>(lora::Safetensors::in_memory(std::as_bytes(std::span(data, size))));
  } catch (const lora::FormatError&) {
    return 0;
  }
  for (const lora::WeightNames& names : ways) {
    fuzz::Net model = base;
    if (!fuzz::loads(model, [&](auto& to) { lora::load_weights(to, *file, names); })) continue;
    fuzz::Net again = base;
    lora::save_weights(model, folder.path() / "again.safetensors", names);
    lora::load_weights(again, lora::Safetensors::open(folder.path() / "again.safetensors"), names);
    if (lora_test::contents(again) != lora_test::contents(model)) std::abort();
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  fuzz::Random random(seed);
  const std::string file(reinterpret_cast<const char*>(data), size);
  return fuzz::store(fuzz::mutated_safetensors(file, most, random), data, most);
}
