#pragma once
/// Opening the two files of a PEFT adapter as one thing, also while another is put into its place, or after a save
/// that was killed between the two.

#include "lora/core/function_ref.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/io/peft_files.hpp"
#include "lora/io/peft_support.hpp"
#include "lora/io/safetensors.hpp"

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace lora::inline LORA_ABI::detail {

struct PeftFiles {
  PeftConfig config;
  Safetensors weights;
  std::string config_path, weights_path;
};

using ParsePeftConfig = FunctionRef<PeftConfig(std::string_view who, std::string_view text)>;

/// Both files. Weights that save_adapter wrote say themselves what they mean: where the config beside them says
/// something else, or is missing, theirs is taken, with the remarks of the one beside them, and says so.
inline PeftFiles open_peft(const std::filesystem::path& folder, ParsePeftConfig parse) {
  const auto config_path = folder / peft_config_name, weights_path = folder / peft_weights_name;
  // The config first: it is put into place last, so the weights that are found then are of its age, or newer and bring
  // their own settings.
  std::optional<PeftConfig> config;
  std::error_code ignored;
  const bool has_weights = std::filesystem::exists(weights_path, ignored);
  if (std::filesystem::exists(config_path, ignored) || !has_weights) {
    const std::string who = config_path.string();
    config = parse(who, read_peft_config_text(config_path));
  }
  if (!has_weights && std::filesystem::exists(folder / "adapter_model.bin", ignored)) {
    const std::string who = folder.string();
    fail<FileError>(std::string_view(who),
                    "there is an adapter_model.bin, a pickle, which can run any program, but no "
                    "adapter_model.safetensors; save it in PEFT with safe_serialization=True");
  }
  Safetensors weights = Safetensors::open(weights_path, {.access = FileAccess::read});
  const auto meaning = weights.metadata().find(peft_meaning_name);
  if (meaning != weights.metadata().end()) {
    const std::string who = weights_path.string() + ", its " + peft_meaning_name;
    PeftConfig own = parse(who, meaning->second);
    if (!config || peft_meaning(*config) != peft_meaning(own)) {
      if (config) {
        for (const char* key : peft_remarks) {
          if (const auto remark = config->source.find(key); remark != config->source.end()) own.source.insert(*remark);
        }
        own = parse(who, json_object(own.source));
      }
      own.from_weights = true;
      config = std::move(own);
    }
  }
  if (!config)
    config = parse(config_path.string(), read_peft_config_text(config_path));  // which says that it is missing
  return {std::move(*config), std::move(weights), config_path.string(), weights_path.string()};
}

/// The same for an adapter of LORA.
inline PeftFiles open_peft(const std::filesystem::path& folder) {
  return open_peft(folder, [](std::string_view who, std::string_view text) {
    PeftConfig config = parse_peft_config(who, text);
    check_supported(who, config);
    return config;
  });
}

}  // namespace lora::inline LORA_ABI::detail
