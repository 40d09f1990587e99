#pragma once
/// adapter_config.json, the settings of a PEFT adapter.
///
///   lora::PeftConfig config = lora::read_peft_config("adapter/");
///
/// A new config has the 21 keys that PEFT 0.7.1 knows, and use_rslora or another only if it is set. A config that was
/// read keeps all its keys and values, except for the settings that have been changed since. The text is Python's
/// json.dumps(config, indent=2, sort_keys=True), as PEFT writes it.
///
/// Source: peft 0.7.1 and 0.21.2, config.py and tuners/lora/config.py.

#include "lora/adapters/lora_config.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/detail/peft_settings.hpp"
#include "lora/io/file_bytes.hpp"
#include "lora/io/file_error.hpp"
#include "lora/model/targets.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

struct PeftConfig {
  /// r, lora_alpha, use_rslora (scaling), rank_pattern, alpha_pattern, ...
  LoraConfig lora = {};
  /// target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save. Empty modules mean null:
  /// PEFT then has default names for each type of model.
  Targets targets = {};
  std::optional<std::string> base_model_name_or_path = {};
  std::optional<std::string> revision = {};
  /// One of the six that PEFT knows, such as CAUSAL_LM.
  std::optional<std::string> task_type = {};
  bool inference_mode = true;
  /// The base stores its weights (in, out), as GPT-2's Conv1D does. A and B are the same either way.
  bool fan_in_fan_out = false;
  /// All settings of the file that this was read from; empty for a new config.
  nlohmann::ordered_json source = {};
  /// Set by load_adapter if adapter_config.json is missing, or is not the one that the weights were saved with, as
  /// after a killed save or a change by hand: these settings are those stored in the weights.
  bool from_weights = false;
};

namespace detail {

inline constexpr const char* peft_config_name = "adapter_config.json";
inline constexpr const char* peft_weights_name = "adapter_model.safetensors";
inline constexpr JsonLimits peft_config_limits{.bytes = 16'000'000, .depth = 8, .values = 1'000'000};

/// The keys that PEFT 0.7.1 knows, with the values of a new config.
Json new_peft_settings();

/// Throws FormatError for a task_type that PEFT does not know.
void check_task_type(const PeftSettings& settings);

PeftConfig peft_config_of(std::string_view who, const Json& root);

/// Null if it is empty.
template <class T>
Json list_setting(const std::vector<T>& list) {
  return list.empty() ? Json() : Json(list);
}
Json text_setting(const std::optional<std::string>& text);
Json names_setting(const ModuleNames& names);
/// Writes a whole number without a decimal point.
Json alpha_setting(double alpha);
template <class T, class F>
Json table_setting(const std::vector<std::pair<std::string, T>>& table, F&& setting) {
  Json::object_t object;
  object.reserve(table.size());
  for (const auto& [name, value] : table) object.emplace_back(name, setting(value));
  return object;
}

/// The settings that PeftConfig has a field for.
Json peft_settings_of(const PeftConfig& config);

/// A file of settings as a tree. It is read rather than mapped: Python writes it in place, and a mapped file that is
/// truncated kills the process.
Json read_settings(const std::filesystem::path& file);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE Json new_peft_settings() {
  return parse_json("PeftConfig", R"({
    "alpha_pattern": {}, "auto_mapping": null, "base_model_name_or_path": null, "bias": "none", "fan_in_fan_out": false,
    "inference_mode": true, "init_lora_weights": true, "layers_pattern": null, "layers_to_transform": null,
    "loftq_config": {}, "lora_alpha": 8, "lora_dropout": 0.0, "megatron_config": null, "megatron_core": "megatron.core",
    "modules_to_save": null, "peft_type": "LORA", "r": 8, "rank_pattern": {}, "revision": null, "target_modules": null,
    "task_type": null})");
}

LORA_IO_INLINE void check_task_type(const PeftSettings& settings) {
  constexpr std::array<std::string_view, 6> known{"SEQ_CLS",   "SEQ_2_SEQ_LM", "CAUSAL_LM",
                                                  "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"};
  const auto type = settings.text("task_type");
  if (!type || std::find(known.begin(), known.end(), *type) != known.end()) return;
  settings.refuse("task_type", *settings.find("task_type"),
                  "CAUSAL_LM, FEATURE_EXTRACTION, QUESTION_ANS, SEQ_2_SEQ_LM, SEQ_CLS, TOKEN_CLS or null");
}

LORA_IO_INLINE PeftConfig peft_config_of(std::string_view who, const Json& root) {
  if (!root.is_object()) fail<FormatError>(who, "is not a JSON object, expected one of settings");
  const PeftSettings settings(who, root);
  const auto type = root.find("peft_type");
  if (type == root.end()) fail<FormatError>(who, "there is no peft_type, expected \"LORA\"");
  if (*type != Json("LORA")) {
    settings.refuse("peft_type", *type,
                    "\"LORA\"; an adapter of a kind of your own is loaded by load_adapter(model, directory, "
                    "AdapterKinds<MyConfig>())");
  }
  PeftConfig config;
  LoraConfig& lora = config.lora;
  lora.rank = settings.integer("r", 8);
  lora.alpha = settings.number("lora_alpha", 8);
  lora.dropout = settings.number("lora_dropout", 0);
  lora.scaling = settings.flag("use_rslora", false) ? Scaling::alpha_over_sqrt_rank : Scaling::alpha_over_rank;
  const Json* init = settings.find("init_lora_weights");
  lora.init = init != nullptr && *init == Json("gaussian") ? Init::gaussian : Init::kaiming_uniform;
  const auto given = root.find("bias");
  const Json bias = given == root.end() ? Json("none") : *given;
  if (bias != "none" && bias != "all" && bias != "lora_only") {
    settings.refuse("bias", bias, "\"none\", \"all\" or \"lora_only\"");
  }
  lora.bias = bias == "none" ? Bias::none : bias == "all" ? Bias::all : Bias::lora_only;
  config.targets.modules = settings.names("target_modules");
  // Nothing at all is not null, which means the defaults of a type of model.
  if (const Json* targets = settings.find("target_modules"); targets != nullptr && config.targets.modules.empty()) {
    settings.refuse("target_modules", *targets, "at least one name, or null for the layers that the file has");
  }
  config.targets.exclude = settings.names("exclude_modules");
  config.targets.blocks = settings.integers("layers_to_transform");
  config.targets.block_names = settings.texts("layers_pattern");
  lora.rank_pattern = settings.integer_table("rank_pattern");
  lora.alpha_pattern = settings.number_table("alpha_pattern");
  config.targets.modules_to_save = settings.list("modules_to_save");
  for (const auto& [pattern, rank] : lora.rank_pattern) {
    if (rank >= 1) continue;
    fail<FormatError>(
        who, "rank_pattern has " + shown(pattern) + " at " + std::to_string(rank) + ", expected a rank of at least 1");
  }
  validate(lora, Caller(who));
  config.base_model_name_or_path = settings.text("base_model_name_or_path");
  config.revision = settings.text("revision");
  check_task_type(settings);
  config.task_type = settings.text("task_type");
  config.inference_mode = settings.flag("inference_mode", false);
  config.fan_in_fan_out = settings.flag("fan_in_fan_out", false);
  config.source = root;
  return config;
}

LORA_IO_INLINE Json text_setting(const std::optional<std::string>& text) { return text ? Json(*text) : Json(); }

LORA_IO_INLINE Json names_setting(const ModuleNames& names) {
  return names.is_pattern() ? Json(names.pattern()) : list_setting(names.names());
}

LORA_IO_INLINE Json alpha_setting(double alpha) {
  const bool whole = alpha == std::floor(alpha) && std::abs(alpha) < 1e15;
  return whole ? Json(static_cast<Index>(alpha)) : json_number(alpha);
}

LORA_IO_INLINE Json peft_settings_of(const PeftConfig& config) {
  const LoraConfig& lora = config.lora;
  Json settings;
  settings["r"] = lora.rank;
  settings["lora_alpha"] = alpha_setting(lora.alpha);
  settings["lora_dropout"] = json_number(lora.dropout);
  settings["use_rslora"] = lora.scaling == Scaling::alpha_over_sqrt_rank;
  settings["bias"] = lora.bias == Bias::none ? "none" : lora.bias == Bias::all ? "all" : "lora_only";
  settings["target_modules"] = names_setting(config.targets.modules);
  settings["exclude_modules"] = names_setting(config.targets.exclude);
  settings["layers_to_transform"] = list_setting(config.targets.blocks);
  settings["layers_pattern"] = list_setting(config.targets.block_names);
  settings["rank_pattern"] = table_setting(lora.rank_pattern, [](Index rank) { return rank; });
  settings["alpha_pattern"] = table_setting(lora.alpha_pattern, alpha_setting);
  settings["modules_to_save"] = list_setting(config.targets.modules_to_save);
  settings["base_model_name_or_path"] = text_setting(config.base_model_name_or_path);
  settings["revision"] = text_setting(config.revision);
  settings["task_type"] = text_setting(config.task_type);
  settings["inference_mode"] = config.inference_mode;
  settings["fan_in_fan_out"] = config.fan_in_fan_out;
  return settings;
}

LORA_IO_INLINE Json read_settings(const std::filesystem::path& file) {
  const std::string who = file.string();
  std::error_code ignored;
  const auto size = std::filesystem::file_size(file, ignored);
  if (!ignored && size > peft_config_limits.bytes) {
    fail<FormatError>(std::string_view(who), "has " + std::to_string(size) + " bytes, expected at most " +
                                                 std::to_string(peft_config_limits.bytes));
  }
  const FileBytes bytes = FileBytes::open(file, FileAccess::read);
  return parse_json(who, {reinterpret_cast<const char*>(bytes.bytes().data()), bytes.bytes().size()},
                    peft_config_limits);
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail

/// Parses a config; messages begin with `who`. Throws FormatError for invalid JSON, a setting of another type or a
/// peft_type other than LORA, ConfigError for a setting out of range. Settings that cannot be applied are no error yet.
PeftConfig parse_peft_config(std::string_view who, std::string_view text);

/// The same from a file, or from adapter_config.json in a folder. Throws FileError too.
PeftConfig read_peft_config(const std::filesystem::path& path);

/// The text of adapter_config.json. Throws ValueError for a number that is not finite or a text that is not UTF-8.
std::string to_json(const PeftConfig& config);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE PeftConfig parse_peft_config(std::string_view who, std::string_view text) {
  return detail::peft_config_of(who, detail::parse_json(who, text, detail::peft_config_limits));
}

LORA_IO_INLINE PeftConfig read_peft_config(const std::filesystem::path& path) {
  std::error_code ignored;
  const auto file = std::filesystem::is_directory(path, ignored) ? path / detail::peft_config_name : path;
  return detail::peft_config_of(file.string(), detail::read_settings(file));
}

LORA_IO_INLINE std::string to_json(const PeftConfig& config) {
  detail::Json settings = config.source.empty() ? detail::new_peft_settings() : config.source;
  const detail::Json before = detail::peft_settings_of(detail::peft_config_of("PeftConfig::source", settings));
  const detail::Json now = detail::peft_settings_of(config);
  for (const auto& [key, value] : now.items()) {
    if (before[key] != value) settings[key] = value;
  }
  return detail::python_json(settings);
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI
