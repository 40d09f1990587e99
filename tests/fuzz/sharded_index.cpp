// Any text as the index of a sharded model: a FormatError or names of files that lie in the same folder.
#include "support.hpp"

#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::HeapLimit limit(size);
  lora::detail::WeightMap files;
  try {
    files = lora::detail::weight_map("index", {reinterpret_cast<const char*>(data), size}, 1000);
  } catch (const lora::FormatError&) {
    return 0;
  }
  for (const auto& [tensor, file] : files) {
    if (file.empty() || file == ".." || file.find_first_of(std::string_view("/\\\0", 3)) != file.npos) std::abort();
  }
  return 0;
}
