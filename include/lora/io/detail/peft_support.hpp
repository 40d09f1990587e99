#pragma once
/// The settings that a PEFT config may have: those that are applied, and those without an effect on the output. All
/// others, including those of later releases of PEFT, are refused by name.
///
/// Source: the fields of LoraConfig in the tags of huggingface/peft from v0.2.0 to v0.21.2.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/peft_config.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// The settings that PeftConfig has a field for.
inline constexpr std::array<std::string_view, 18> applied_settings{"alpha_pattern",
                                                                   "base_model_name_or_path",
                                                                   "bias",
                                                                   "exclude_modules",
                                                                   "fan_in_fan_out",
                                                                   "inference_mode",
                                                                   "layers_pattern",
                                                                   "lora_alpha",
                                                                   "layers_to_transform",
                                                                   "lora_dropout",
                                                                   "modules_to_save",
                                                                   "peft_type",
                                                                   "r",
                                                                   "rank_pattern",
                                                                   "revision",
                                                                   "target_modules",
                                                                   "task_type",
                                                                   "use_rslora"};

/// How a method starts an adapter, which no output depends on: init_lora_weights says whether it did. An object or
/// null.
inline constexpr std::array<std::string_view, 3> start_settings{"corda_config", "eva_config", "lora_ga_config"};

/// The settings of methods that only null turns off: of {}, [], "" and false PEFT refuses some, and turns the method on
/// for others.
inline constexpr std::array<std::string_view, 6> off_at_null{
    "arrow_config", "kasa_config", "monteclora_config", "trainable_token_indices", "use_bdlora", "velora_config"};

/// The settings that no output depends on, whatever their value.
inline constexpr std::array<std::string_view, 7> harmless_settings{
    "auto_mapping",       // the Python class of the base
    "loftq_config",       // how LoftQ starts an adapter; init_lora_weights says whether it did
    "megatron_core",      // a Python module, imported only if megatron_config is set
    "merge_weights",      // of PEFT 0.2: whether to merge for inference
    "peft_version",       // the release that wrote it
    "qalora_group_size",  // read only if use_qalora is set
    "runtime_config",     // where PEFT computes; not meant to be on disk
};

/// Whether this init_lora_weights leaves the base unchanged. All others (pissa, olora, corda, loftq, lora_ga, ...)
/// overwrite it, so that their adapter does not fit an unchanged base.
bool keeps_base(const Json& init);

/// Whether a setting is set: it is not null, false, "", [] or {}.
bool is_set(std::string_view key, const Json& value);

/// Throws ConfigError naming all settings that are set but neither known, harmless nor ignored, and how to ignore them;
/// also if `ignore` has a known setting.
void check_settings(std::string_view who, const Json& settings, std::span<const std::string_view> known,
                    const std::vector<std::string>& ignore);

/// check_settings for a config of LORA.
void check_supported(std::string_view who, const PeftConfig& config, const std::vector<std::string>& ignore = {});

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE bool keeps_base(const Json& init) {
  constexpr std::array<std::string_view, 3> harmless{"eva", "gaussian", "orthogonal"};
  if (!init.is_string()) return init.is_boolean() || init.is_null();
  return std::find(harmless.begin(), harmless.end(), init.get_ref<const std::string&>()) != harmless.end();
}

LORA_IO_INLINE bool is_set(std::string_view key, const Json& value) {
  if (std::find(off_at_null.begin(), off_at_null.end(), key) != off_at_null.end()) return !value.is_null();
  if (key == "target_parameters" && value.is_string()) return true;  // for PEFT, too: no list
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty() && value != Json(false);
}

LORA_IO_INLINE void check_settings(std::string_view who, const Json& settings, std::span<const std::string_view> known,
                                   const std::vector<std::string>& ignore) {
  constexpr std::size_t most = 20;
  const auto contains = [](const auto& list, std::string_view key) {
    return std::find(list.begin(), list.end(), key) != list.end();
  };
  for (const std::string& key : ignore) {
    if (!contains(known, key)) continue;
    fail<ConfigError>(
        "load_adapter",
        shown(key) + " cannot be ignored, because it is applied; expected only settings that are refused");
  }
  std::string found, names;
  std::size_t count = 0;
  for (const auto& [key, value] : settings.items()) {
    if (contains(known, key) || contains(harmless_settings, key) || contains(ignore, key)) continue;
    if (contains(start_settings, key)) {
      if (value.is_object() || value.is_null()) continue;
      fail<FormatError>(who, key + " is " + shown_setting(value) + ", expected an object or null");
    }
    const bool init = key == "init_lora_weights";
    if (init ? keeps_base(value) : !is_set(key, value)) continue;
    if (++count > most) continue;
    const char* comma = count > 1 ? ", " : "";
    found += comma + shown(key) + " is " + shown_setting(value);
    if (init) found += " (which changes the base's weights when the adapter is made)";
    names += comma + shown(key);
  }
  if (count == 0) return;
  if (count > most) found += " and " + std::to_string(count - most) + " more are set";
  fail<ConfigError>(who, found +
                             ", which this version cannot apply; merge the adapter first, in PEFT with "
                             "merge_and_unload(), or, if it does not matter, ignore it: load_adapter(model, directory, "
                             "{.ignore = {" +
                             names + "}})");
}

LORA_IO_INLINE void check_supported(std::string_view who, const PeftConfig& config,
                                    const std::vector<std::string>& ignore) {
  check_settings(who, config.source, applied_settings, ignore);
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
