#pragma once
// What the tests of files share: a folder that goes away, whole files as strings, and safetensors files by hand.

#include "lora/io/file_error.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <span>
#include <string>
#include <string_view>

namespace lora_test {

namespace fs = std::filesystem;

/// A new folder, removed with all that is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "lora-test-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

  /// The names of what is in it.
  std::set<std::string> names() const {
    std::set<std::string> result;
    for (const auto& entry : fs::directory_iterator(path_)) result.insert(entry.path().filename().string());
    return result;
  }

 private:
  fs::path path_;
};

inline std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline fs::path write_file(const fs::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
  return path;
}

/// 8 bytes, little-endian.
inline std::string length(std::uint64_t size) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(size >> (8 * i) & 0xff);
  return text;
}

/// A file with this header, as long as it is, and this data.
inline std::string safetensors(std::string_view header, std::string_view data = "") {
  return length(header.size()) + std::string(header) + std::string(data);
}

inline std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

/// The message of the E that f throws; what else it throws goes through, and nothing is an empty text.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return {};
}

inline const fs::path fixtures = fs::path(__FILE__).parent_path() / "fixtures";

}  // namespace lora_test
