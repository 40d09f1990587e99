// Any bytes as a checkpoint: it is loaded, and saved again it is loaded again, or model and optimizer stay as they
// were.
#include "support.hpp"

#include "lora/optim/adam.hpp"

#include <string>

namespace {

std::string contents(const lora::AdamW<float>& optimizer) {
  std::string text;
  for (const auto& slot : optimizer.state().slots()) {
    text += std::to_string(slot.steps) + " ";
    for (const auto& moment : slot.moments) {
      text.append(reinterpret_cast<const char*>(moment.data()),
                  static_cast<std::size_t>(moment.size()) * sizeof(float));
    }
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::Folder folder;
  static const fuzz::Net base = fuzz::adapted_net();
  const fuzz::HeapLimit limit(size);
  const auto file = folder.write("checkpoint", {reinterpret_cast<const char*>(data), size});
  fuzz::Net model = base;
  lora::AdamW<float> optimizer;
  lora::Checkpoint point;
  if (!fuzz::loads(model, [&](auto& to) { point = lora::load_checkpoint(file, to, optimizer); })) {
    if (!optimizer.state().slots().empty()) std::abort();
    return 0;
  }
  fuzz::Net again = base;
  lora::AdamW<float> other;
  lora::save_checkpoint(folder.path() / "again", model, optimizer, point);
  const lora::Checkpoint same = lora::load_checkpoint(folder.path() / "again", again, other);
  if (same.step != point.step || same.notes != point.notes || same.generators.size() != point.generators.size() ||
      lora_test::contents(again) != lora_test::contents(model) || contents(other) != contents(optimizer)) {
    std::abort();
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  fuzz::Random random(seed);
  const std::string file(reinterpret_cast<const char*>(data), size);
  return fuzz::store(fuzz::mutated_safetensors(file, most, random), data, most);
}
