// Any text as a published model's config.json: a typed error, or settings that a model can have.
#include "support.hpp"

#include "lora/io/pretrained.hpp"

#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::HeapLimit limit(size);
  for (const char* type : {"bert", "roberta", "distilbert"}) {
    try {
      const auto root = lora::detail::parse_json("config", {reinterpret_cast<const char*>(data), size});
      validate(lora::detail::encoder_config_of("config", root, type, {}));  // may not fail any more
    } catch (const lora::FormatError&) {
    } catch (const lora::ConfigError&) {
    }
  }
  return 0;
}
