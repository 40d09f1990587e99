// Any text as the index of a sharded model: a FormatError or names of files that lie in the same folder.
#include <lora/io.hpp>

#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  lora::detail::ShardEvents events("index", 1000);
  try {
    lora::read_json("index", {reinterpret_cast<const char*>(data), size}, events);
  } catch (const lora::FormatError&) {
    return 0;
  }
  for (const auto& [tensor, file] : events.file_of) {
    if (file.empty() || file == ".." || file.find_first_of(std::string_view("/\\\0", 3)) != file.npos) std::abort();
  }
  return 0;
}
