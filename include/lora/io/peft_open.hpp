#pragma once
/// Opening the two files of a PEFT adapter as one thing, also while another is put into its place.

#include "lora/io/file_error.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/io/peft_files.hpp"
#include "lora/io/peft_support.hpp"
#include "lora/io/posix.hpp"
#include "lora/io/safetensors.hpp"

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

struct PeftFiles {
  PeftConfig config;
  Safetensors weights;
  std::string config_path, weights_path;
};

/// The config file that is at a path now. Its number is no other's for as long as this holds it open.
class HeldFile {
 public:
  explicit HeldFile(const std::filesystem::path& path)
      : file_(uninterrupted([&] {
          return PosixFiles::open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
        })) {}

  bool is_at(const std::filesystem::path& path) const {
    struct ::stat here, there;
    if (::stat(path.c_str(), &there) != 0) return !file_;
    return file_ && PosixFiles::status(file_.get(), &here) == 0 && here.st_dev == there.st_dev &&
           here.st_ino == there.st_ino;
  }

 private:
  Descriptor<PosixFiles> file_;
};

/// Both files, of one adapter: if another was put in its place between opening the one and the other, both are opened
/// again. Throws FormatError for weights that were written for another config.
inline PeftFiles open_peft(const std::filesystem::path& folder,
                           FunctionRef<PeftConfig(const std::filesystem::path&)> read_config) {
  const auto config_path = folder / peft_config_name, weights_path = folder / peft_weights_name;
  for (int attempts = 100;; --attempts) {
    const HeldFile config_file(config_path);
    try {
      PeftConfig config = read_config(config_path);
      std::error_code ignored;
      if (!std::filesystem::exists(weights_path, ignored) &&
          std::filesystem::exists(folder / "adapter_model.bin", ignored)) {
        const std::string who = folder.string();
        fail<FileError>(std::string_view(who),
                        "there is an adapter_model.bin, a pickle, which can run any program, but no "
                        "adapter_model.safetensors; save it in PEFT with safe_serialization=True");
      }
      PeftFiles files{std::move(config), Safetensors::open(weights_path, {.access = FileAccess::read}),
                      config_path.string(), weights_path.string()};
      if (!config_file.is_at(config_path) && attempts > 0) continue;
      const auto digest = files.weights.metadata().find(peft_digest_name);
      if (digest != files.weights.metadata().end() && digest->second != peft_digest(files.config)) {
        fail<FormatError>(std::string_view(files.weights_path),
                          "was written for another config than the " + std::string(peft_config_name) +
                              " beside it: saving was interrupted, or the config was changed since; save the adapter "
                              "again");
      }
      return files;
    } catch (const Error&) {
      if (attempts > 0 && !config_file.is_at(config_path)) continue;
      throw;
    }
  }
}

/// The same for an adapter of LORA; see check_settings for `ignore`.
inline PeftFiles open_peft(const std::filesystem::path& folder, const std::vector<std::string>& ignore) {
  return open_peft(folder, [&](const std::filesystem::path& path) {
    PeftConfig config = read_peft_config(path);
    check_supported(path.string(), config, ignore);
    return config;
  });
}

}  // namespace lora::inline LORA_ABI::detail
