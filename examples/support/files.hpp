#pragma once
/// Files: written whole or not at all, and counted.

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace examples {

/// Writes `text` beside `path` and renames it onto `path`, so that a reader, or a run that was interrupted, finds the
/// old file or the new one, never half of one. Missing folders are made. Bytes are written as they are.
/// Throws std::runtime_error naming the path and the reason; then nothing is left behind and an old file is untouched.
inline void write_file(const std::filesystem::path& path, std::string_view text) {
  const auto fail = [&](const std::string& reason) {
    throw std::runtime_error("write_file: cannot write " + path.string() + ": " + reason);
  };
  std::error_code error;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), error);
  if (error) fail(error.message());

  const std::filesystem::path unfinished = path.string() + "." + std::to_string(std::random_device{}()) + ".tmp";
  errno = 0;
  std::ofstream file(unfinished, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (!file) error = std::error_code(errno != 0 ? errno : EIO, std::generic_category());
  if (!error) std::filesystem::rename(unfinished, path, error);
  if (error) {
    std::error_code ignored;
    std::filesystem::remove(unfinished, ignored);
    fail(error.message());
  }
}

/// Of all files in a folder, together.
inline std::uintmax_t bytes_of_files(const std::filesystem::path& folder) {
  std::uintmax_t sum = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) sum += entry.file_size();
  return sum;
}

}  // namespace examples
