#pragma once
/// adapter_config.json, the settings of a PEFT adapter.
///
///   lora::PeftConfig config = lora::read_peft_config("adapter/");
///
/// A config that starts here has the 21 keys that PEFT 0.7.1 knows, and use_rslora or another only if it is set. One
/// that was read keeps every key it had, with the text of its value; what has been changed since is written anew. The
/// text is Python's json.dumps(config, indent=2, sort_keys=True), as PEFT writes it.
///
/// Source: peft 0.7.1 and 0.21.2, config.py and tuners/lora/config.py.

#include "lora/adapters/lora_config.hpp"
#include "lora/io/file_bytes.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/json_value.hpp"
#include "lora/io/peft_settings.hpp"
#include "lora/model/targets.hpp"

#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

struct PeftConfig {
  /// r, lora_alpha, use_rslora (scaling), rank_pattern, alpha_pattern, ...
  LoraConfig lora = {};
  /// target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save. Empty modules stand for
  /// null: PEFT then has names for each type of model.
  Targets targets = {};
  std::optional<std::string> base_model_name_or_path = {};
  std::optional<std::string> revision = {};
  /// Such as CAUSAL_LM; PEFT knows six.
  std::optional<std::string> task_type = {};
  bool inference_mode = true;
  /// The base stores its weights (in, out), as GPT-2's Conv1D does. A and B are the same either way.
  bool fan_in_fan_out = false;
  /// All keys of the file that this was read from, each with the JSON text of its value.
  std::map<std::string, std::string> source = {};
  /// What load_adapter says of a directory whose adapter_config.json is missing, or is not the one that its weights
  /// were saved with, as after a save that was killed, or a change by hand: these settings are the weights' own.
  bool from_weights = false;
};

namespace detail {

inline constexpr const char* peft_config_name = "adapter_config.json";
inline constexpr const char* peft_weights_name = "adapter_model.safetensors";
inline constexpr JsonLimits peft_config_limits{.bytes = 16'000'000, .depth = 8, .values = 1'000'000};

/// What PEFT 0.7.1 knows, with the values of a config that starts here.
inline const std::map<std::string, std::string>& new_peft_settings() {
  static const std::map<std::string, std::string> settings{{"alpha_pattern", "{}"},
                                                           {"auto_mapping", "null"},
                                                           {"base_model_name_or_path", "null"},
                                                           {"bias", "\"none\""},
                                                           {"fan_in_fan_out", "false"},
                                                           {"inference_mode", "true"},
                                                           {"init_lora_weights", "true"},
                                                           {"layers_pattern", "null"},
                                                           {"layers_to_transform", "null"},
                                                           {"loftq_config", "{}"},
                                                           {"lora_alpha", "8"},
                                                           {"lora_dropout", "0.0"},
                                                           {"megatron_config", "null"},
                                                           {"megatron_core", "\"megatron.core\""},
                                                           {"modules_to_save", "null"},
                                                           {"peft_type", "\"LORA\""},
                                                           {"r", "8"},
                                                           {"rank_pattern", "{}"},
                                                           {"revision", "null"},
                                                           {"target_modules", "null"},
                                                           {"task_type", "null"}};
  return settings;
}

inline PeftConfig peft_config_of(std::string_view who, const JsonValue& root) {
  if (root.kind != JsonValue::Kind::object) fail<FormatError>(who, "is no JSON object, expected one of settings");
  const PeftSettings settings(who, root);
  const JsonValue* type = root.find("peft_type");
  if (type == nullptr) fail<FormatError>(who, "there is no peft_type, expected \"LORA\"");
  if (type->kind != JsonValue::Kind::string || type->text != "LORA") {
    settings.refuse("peft_type", *type, "\"LORA\", the only type that can be applied");
  }
  PeftConfig config;
  LoraConfig& lora = config.lora;
  lora.rank = settings.integer("r", 8);
  lora.alpha = settings.number("lora_alpha", 8);
  lora.dropout = settings.number("lora_dropout", 0);
  lora.scaling = settings.flag("use_rslora", false) ? Scaling::alpha_over_sqrt_rank : Scaling::alpha_over_rank;
  const JsonValue* init = settings.find("init_lora_weights");
  lora.init = init != nullptr && init->text == "gaussian" ? Init::gaussian : Init::kaiming_uniform;
  const std::string bias = settings.text("bias").value_or("none");
  if (bias != "none" && bias != "all" && bias != "lora_only") {
    settings.refuse("bias", *settings.find("bias"), "\"none\", \"all\" or \"lora_only\"");
  }
  lora.bias = bias == "none" ? Bias::none : bias == "all" ? Bias::all : Bias::lora_only;
  config.targets.modules = settings.names("target_modules");
  config.targets.exclude = settings.names("exclude_modules");
  config.targets.blocks = settings.integers("layers_to_transform");
  config.targets.block_names = settings.texts("layers_pattern");
  lora.rank_pattern = settings.integer_table("rank_pattern");
  lora.alpha_pattern = settings.number_table("alpha_pattern");
  config.targets.modules_to_save = settings.texts("modules_to_save");
  for (const auto& [pattern, rank] : lora.rank_pattern) {
    if (rank >= 1) continue;
    fail<FormatError>(
        who, "rank_pattern has " + shown(pattern) + " at " + std::to_string(rank) + ", expected a rank of at least 1");
  }
  validate(lora, Caller(who));
  config.base_model_name_or_path = settings.text("base_model_name_or_path");
  config.revision = settings.text("revision");
  config.task_type = settings.text("task_type");
  config.inference_mode = settings.flag("inference_mode", false);
  config.fan_in_fan_out = settings.flag("fan_in_fan_out", false);
  for (std::size_t i = 0; i < root.items.size(); ++i) config.source[root.names[i]] = python_json(root.items[i], 1);
  return config;
}

inline JsonValue json_string(std::string text) { return {.kind = JsonValue::Kind::string, .text = std::move(text)}; }
inline JsonValue json_integer(Index value) { return {.kind = JsonValue::Kind::integer, .text = std::to_string(value)}; }
/// A whole number without a point, as people give alphas.
inline JsonValue json_number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return json_integer(static_cast<Index>(value));
  return {.kind = JsonValue::Kind::real, .text = python_float(value)};
}
template <class T, class F>
JsonValue json_list(const std::vector<T>& list, F&& item) {
  if (list.empty()) return {};
  JsonValue value{.kind = JsonValue::Kind::array};
  for (const T& one : list) value.items.push_back(item(one));
  return value;
}
template <class T, class F>
JsonValue json_table(const std::vector<std::pair<std::string, T>>& table, F&& item) {
  JsonValue value{.kind = JsonValue::Kind::object};
  for (const auto& [name, one] : table) {
    value.names.push_back(name);
    value.items.push_back(item(one));
  }
  return value;
}

/// The settings that PeftConfig has a field for, as JSON text one level deep.
inline std::map<std::string, std::string> peft_settings_of(const PeftConfig& config) {
  const LoraConfig& lora = config.lora;
  std::map<std::string, std::string> settings;
  const auto put = [&](const char* key, const JsonValue& value) { settings[key] = python_json(value, 1); };
  const auto flag = [](bool value) {
    return JsonValue{.kind = JsonValue::Kind::boolean, .text = value ? "true" : "false"};
  };
  const auto text = [](const std::optional<std::string>& value) { return value ? json_string(*value) : JsonValue(); };
  const auto names = [](const ModuleNames& value) {
    return value.is_pattern() ? json_string(value.pattern()) : json_list(value.names(), json_string);
  };
  put("r", json_integer(lora.rank));
  put("lora_alpha", json_number(lora.alpha));
  put("lora_dropout", {.kind = JsonValue::Kind::real, .text = python_float(lora.dropout)});
  put("use_rslora", flag(lora.scaling == Scaling::alpha_over_sqrt_rank));
  put("bias", json_string(lora.bias == Bias::none ? "none" : lora.bias == Bias::all ? "all" : "lora_only"));
  put("target_modules", names(config.targets.modules));
  put("exclude_modules", names(config.targets.exclude));
  put("layers_to_transform", json_list(config.targets.blocks, json_integer));
  put("layers_pattern", json_list(config.targets.block_names, json_string));
  put("rank_pattern", json_table(lora.rank_pattern, json_integer));
  put("alpha_pattern", json_table(lora.alpha_pattern, json_number));
  put("modules_to_save", json_list(config.targets.modules_to_save, json_string));
  put("base_model_name_or_path", text(config.base_model_name_or_path));
  put("revision", text(config.revision));
  put("task_type", text(config.task_type));
  put("inference_mode", flag(config.inference_mode));
  put("fan_in_fan_out", flag(config.fan_in_fan_out));
  return settings;
}

/// Keys and the texts of their values, as one object.
inline std::string json_object(const std::map<std::string, std::string>& settings) {
  std::string json;
  for (const auto& [key, value] : settings) {
    json += json.empty() ? "{\n  " : ",\n  ";
    append_ascii_json_string(json, key);
    json += ": " + value;
  }
  return json.empty() ? "{}" : json + "\n}";
}

}  // namespace detail

/// A config from its text; `who` stands in messages. Throws FormatError for what is not JSON, a setting of another type
/// or a peft_type other than LORA, ConfigError for one out of range. Settings that cannot be applied are no error yet.
inline PeftConfig parse_peft_config(std::string_view who, std::string_view text) {
  return detail::peft_config_of(who, read_json_value(who, text, detail::peft_config_limits));
}

namespace detail {

inline std::string read_peft_config_text(const std::filesystem::path& file) {
  std::error_code ignored;
  const std::string who = file.string();
  const auto size = std::filesystem::file_size(file, ignored);
  if (!ignored && size > peft_config_limits.bytes) {
    fail<FormatError>(std::string_view(who), "has " + std::to_string(size) + " bytes, expected at most " +
                                                 std::to_string(peft_config_limits.bytes));
  }
  // Read rather than mapped: Python writes it in place, and a mapped file that is cut off kills the process.
  const FileBytes bytes = FileBytes::open(file, FileAccess::read);
  return {reinterpret_cast<const char*>(bytes.bytes().data()), bytes.bytes().size()};
}

}  // namespace detail

/// The same from a file, or from adapter_config.json in a folder. Throws FileError too.
inline PeftConfig read_peft_config(const std::filesystem::path& path) {
  std::error_code ignored;
  const auto file = std::filesystem::is_directory(path, ignored) ? path / detail::peft_config_name : path;
  return parse_peft_config(file.string(), detail::read_peft_config_text(file));
}

/// The text of adapter_config.json. Throws ValueError for a number that is not finite.
inline std::string to_json(const PeftConfig& config) {
  auto settings = config.source.empty() ? detail::new_peft_settings() : config.source;
  const auto before = detail::peft_settings_of(parse_peft_config("PeftConfig::source", detail::json_object(settings)));
  for (const auto& [key, text] : detail::peft_settings_of(config)) {
    if (before.at(key) != text) settings[key] = text;
  }
  return detail::json_object(settings);
}

}  // namespace lora::inline LORA_ABI
