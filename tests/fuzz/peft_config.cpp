// Any text as an adapter_config.json: a typed error, or a config that is the same once it is written and read again,
// and says what it gives to each layer of a model.
#include "support.hpp"

#include <string_view>

namespace {

struct Net {
  lora::Linear<float> fc1, fc2, head;
  explicit Net(lora::Rng rng)
      : fc1({.in = 1, .out = 1}, rng), fc2({.in = 1, .out = 1}, rng), head({.in = 1, .out = 1}, rng) {}
  static void visit(auto& self, auto&& f) {
    f("model.layers.0.fc1", self.fc1);
    f("model.layers.1.fc2", self.fc2);
    f("head", self.head);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::HeapLimit limit(size);
  static const Net net(lora::Rng(1));
  lora::PeftConfig config;
  try {
    config = lora::parse_peft_config("config", {reinterpret_cast<const char*>(data), size});
  } catch (const lora::Error&) {
    return 0;
  }
  // These may not fail any more.
  const std::string text = lora::to_json(config);
  if (lora::to_json(lora::parse_peft_config("config", text)) != text) std::abort();
  try {
    lora::detail::check_supported("config", config);
    const auto yes = [](const std::string&) { return true; };
    const auto paths = lora::detail::paths_of(net);
    if (lora::detail::match_peft(paths, config.lora, config.targets, "config", yes, yes).size() != 3) std::abort();
  } catch (const lora::Error&) {
  }
  return 0;
}
