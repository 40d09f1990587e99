#pragma once
/// Opens the two files of a PEFT adapter as a unit, also while another process replaces them, or after a save that was
/// killed between the two.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/peft_files.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/io/safetensors.hpp"

#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

namespace lora::inline LORA_ABI::detail {

struct PeftFiles {
  Json settings;
  bool from_weights = false;  // the settings are those in the weights, which differ from adapter_config.json
  Safetensors weights;
  std::string config_path, weights_path;  // the sources of settings and tensors, for messages
};

/// Opens both files. Weights that save_adapter wrote carry their settings: if the config beside them says something
/// else, or is missing, those are used, with the remarks of that config. It may then be of another kind, or have
/// settings that cannot be applied: it belongs to an adapter that is gone.
PeftFiles open_peft(const std::filesystem::path& folder);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE PeftFiles open_peft(const std::filesystem::path& folder) {
  const auto config_path = folder / peft_config_name, weights_path = folder / peft_weights_name;
  // The config first: it is committed last, so the weights found after it are as old as it is, or newer with their own
  // settings.
  std::optional<Json> beside;
  std::error_code ignored;
  const bool has_weights = std::filesystem::exists(weights_path, ignored);
  if (std::filesystem::exists(config_path, ignored) || !has_weights) beside = read_settings(config_path);
  if (!has_weights && std::filesystem::exists(folder / "adapter_model.bin", ignored)) {
    const std::string who = folder.string();
    fail<FileError>(std::string_view(who),
                    "there is an adapter_model.bin, a pickle, which can run any program, but no "
                    "adapter_model.safetensors; save it in PEFT with safe_serialization=True");
  }
  Safetensors weights = Safetensors::open(weights_path, {.access = FileAccess::read});
  const auto meaning = weights.metadata().find(peft_meaning_name);
  if (meaning != weights.metadata().end()) {
    std::string who = weights_path.string() + ", its " + peft_meaning_name;
    Json own = parse_json(who, meaning->second, peft_config_limits);
    if (!beside || peft_meaning(*beside) != peft_meaning(own)) {
      if (beside && beside->is_object() && own.is_object()) {
        for (const char* key : peft_remarks) {
          if (beside->contains(key)) own[key] = (*beside)[key];
        }
      }
      return {std::move(own), true, std::move(weights), std::move(who), weights_path.string()};
    }
  }
  if (!beside) beside = read_settings(config_path);  // throws that it is missing
  return {std::move(*beside), false, std::move(weights), config_path.string(), weights_path.string()};
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
