// Any three files as an index and two files of a sharded model: a typed error, or a model of which everything can be
// read.
#include "support.hpp"

#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::Folder folder;
  const fuzz::HeapLimit limit(size);
  const auto files = fuzz::files_in({reinterpret_cast<const char*>(data), size}, 3);
  const auto index = folder.write("i.json", files[0]);
  folder.write("a", files[1]);
  folder.write("b", files[2]);
  try {
    const auto model = lora::Safetensors::open(index);
    for (const auto& tensor : model.tensors()) {
      if (lora::is_real(tensor.dtype) && tensor.shape.size() <= 2) model.read<float>(tensor.name);
    }
    fuzz::Net net;
    fuzz::loads(net, [&](auto& to) { lora::load_weights(to, model); });
  } catch (const lora::Error&) {
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  fuzz::Random random(seed);
  const auto given = fuzz::files_in({reinterpret_cast<const char*>(data), size}, 3);
  std::string files[] = {std::string(given[0]), std::string(given[1]), std::string(given[2])};
  const std::size_t chosen = random() % 3;
  files[chosen] = chosen == 0 ? fuzz::mutated(files[0], most) : fuzz::mutated_safetensors(files[chosen], most, random);
  const std::string next(fuzz::next_file);
  return fuzz::store(files[0] + next + files[1] + next + files[2], data, most);
}
