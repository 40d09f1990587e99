#pragma once
/// The exceptions of file access. Every message names the file, what was found and what was expected:
///
///   adapter.safetensors: tensor "fc1.weight": dtype is F16, expected F32; read<float> converts

#include "lora/core/error.hpp"
#include "lora/io/detail/definitions.hpp"

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

namespace lora::inline LORA_ABI {

/// The operating system refused: no such file, no permission, no space. The message names the path and the step.
struct FileError : Error {
  using Error::Error;
};
/// The bytes of a file break the rules of its format.
struct FormatError : Error {
  using Error::Error;
};
/// A tensor is stored in another dtype than was requested.
struct DtypeError : Error {
  using Error::Error;
};

namespace detail {

/// A name from a file, in quotes, so that it can be printed: control characters as \xNN, and cut to 100 bytes.
std::string shown(std::string_view name);

/// Throws FileError `path: cannot step: reason of the error number`.
[[noreturn]] void fail_system(const std::filesystem::path& path, std::string_view step, int error_number);

/// Throws FileError for an empty path, or one with a NUL, at which the operating system would cut it off.
void check_path(const std::filesystem::path& path);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::string shown(std::string_view name) {
  constexpr std::size_t longest = 100;
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const char letter : name.substr(0, longest)) {
    const auto code = static_cast<unsigned char>(letter);
    if (code < 0x20 || code == 0x7f) {
      text += "\\x";
      text += digits[code >> 4];
      text += digits[code & 15];
    } else {
      text += letter;
    }
  }
  return in_quotes(text) + (name.size() > longest ? "... (" + std::to_string(name.size()) + " bytes)" : "");
}

LORA_IO_INLINE void fail_system(const std::filesystem::path& path, std::string_view step, int error_number) {
  const std::string file = path.string();
  fail<FileError>(std::string_view(file),
                  "cannot " + std::string(step) + ": " + std::generic_category().message(error_number));
}

LORA_IO_INLINE void check_path(const std::filesystem::path& path) {
  const std::string file = path.string();
  if (file.empty()) fail<FileError>("file", "the path is empty");
  if (file.find('\0') != std::string::npos) fail<FileError>("file", "the path " + shown(file) + " contains a NUL");
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail
}  // namespace lora::inline LORA_ABI
