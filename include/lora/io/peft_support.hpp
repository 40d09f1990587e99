#pragma once
/// What a PEFT config may ask for: settings that cannot be applied here are refused by name, and settings that an older
/// PEFT does not know are dropped at their default and refused otherwise.
///
/// Source: the fields of LoraConfig in the tags of huggingface/peft from v0.7.0 to v0.21.2.

#include "lora/io/peft_config.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace lora::inline LORA_ABI {

namespace detail {

/// Whether the JSON text of a setting asks for something: not null, false, empty or [] or {}.
inline bool is_set(std::string_view text) {
  constexpr std::array<std::string_view, 5> unset{"null", "false", "\"\"", "[]", "{}"};
  return std::find(unset.begin(), unset.end(), text) == unset.end();
}

/// The beginning of a JSON text, for a message.
inline std::string shown_setting(std::string_view text) {
  if (text.starts_with('[')) return "a list";
  if (text.starts_with('{')) return "set";
  return std::string(text.substr(0, 100));
}

/// Throws ConfigError `who: use_dora is true, which ...` for the first setting that changes what the adapter computes
/// in a way that is not implemented.
inline void check_supported(std::string_view who, const PeftConfig& config) {
  constexpr std::array<const char*, 14> settings{"alora_invocation_tokens",
                                                 "arrow_config",
                                                 "ensure_weight_tying",
                                                 "kasa_config",
                                                 "layer_replication",
                                                 "lora_bias",
                                                 "megatron_config",
                                                 "monteclora_config",
                                                 "target_parameters",
                                                 "trainable_token_indices",
                                                 "use_bdlora",
                                                 "use_dora",
                                                 "use_qalora",
                                                 "velora_config"};
  for (const char* key : settings) {
    const auto found = config.source.find(key);
    if (found == config.source.end() || !is_set(found->second)) continue;
    fail<ConfigError>(who, std::string(key) + " is " + shown_setting(found->second) +
                               ", which this version cannot apply; merge the adapter first, in PEFT with "
                               "merge_and_unload()");
  }
  const auto init = config.source.find("init_lora_weights");
  if (init == config.source.end()) return;
  // These leave the base as it is. All others (pissa, olora, corda, loftq, lora_ga, ...) write over it.
  constexpr std::array<std::string_view, 6> harmless{"true",    "false",        "null",
                                                     "\"eva\"", "\"gaussian\"", "\"orthogonal\""};
  if (std::find(harmless.begin(), harmless.end(), init->second) != harmless.end()) return;
  fail<ConfigError>(who, "init_lora_weights is " + shown_setting(init->second) +
                             ", which changes the base's weights when the adapter is made, so that this one does not "
                             "fit an unchanged base; save it in PEFT with path_initial_model_for_weight_conversion");
}

/// A release of PEFT.
using PeftVersion = std::array<int, 3>;

inline constexpr PeftVersion oldest_peft{0, 7, 0};
/// From here on PEFT finds the keys of a file by its own modules; before (0.7.1, 0.14 and 0.18 are tested), by
/// replacing text inside of them.
inline constexpr PeftVersion structural_keys_peft{0, 21, 0};

/// Throws ConfigError for what is no version, or one below 0.7, whose files look different.
inline PeftVersion peft_version_of(const Caller& who, std::string_view text) {
  PeftVersion version{};
  const char* at = text.data();
  const char* const end = at + text.size();
  bool valid = !text.empty();
  for (std::size_t k = 0; valid && k < version.size() && at < end; ++k) {
    if (k > 0) valid = *at++ == '.';
    const auto read = std::from_chars(at, end, version[k]);
    valid = valid && read.ec == std::errc() && read.ptr != at;
    at = read.ptr;
  }
  if (!valid || at != end || version < oldest_peft) {
    fail<ConfigError>(who, "compatible_with is " + shown(text) + ", expected a version of PEFT from \"0.7.0\" on");
  }
  return version;
}

/// Drops what this version does not know. Throws ConfigError for a setting among these that is not at its default.
inline void restrict_to(const PeftVersion& version, PeftConfig& config, const Caller& who) {
  static const std::map<std::string_view, PeftVersion> since{{"use_rslora", {0, 8, 0}},
                                                             {"use_dora", {0, 9, 0}},
                                                             {"layer_replication", {0, 10, 0}},
                                                             {"runtime_config", {0, 12, 0}},
                                                             {"eva_config", {0, 14, 0}},
                                                             {"exclude_modules", {0, 14, 0}},
                                                             {"lora_bias", {0, 14, 0}},
                                                             {"corda_config", {0, 15, 0}},
                                                             {"trainable_token_indices", {0, 15, 0}},
                                                             {"qalora_group_size", {0, 16, 0}},
                                                             {"use_qalora", {0, 16, 0}},
                                                             {"target_parameters", {0, 17, 0}},
                                                             {"alora_invocation_tokens", {0, 18, 0}},
                                                             {"arrow_config", {0, 18, 0}},
                                                             {"ensure_weight_tying", {0, 18, 0}},
                                                             {"peft_version", {0, 18, 0}},
                                                             {"lora_ga_config", {0, 19, 0}},
                                                             {"use_bdlora", {0, 19, 0}},
                                                             {"monteclora_config", {0, 20, 0}},
                                                             {"velora_config", {0, 20, 0}},
                                                             {"kasa_config", {0, 21, 0}}};
  std::map<std::string, std::string> kept;
  for (const auto& [key, text] : config.source) {
    const auto release = since.find(key);
    const bool known = release != since.end() ? release->second <= version : new_peft_settings().contains(key);
    // Says who wrote it, or is without effect unless another key is set.
    const bool idle = key == "peft_version" || (key == "qalora_group_size" && text == "16");
    if (known) {
      kept[key] = text;
    } else if (is_set(text) && !idle) {
      fail<ConfigError>(who, shown(key) + " is " + shown_setting(text) + ", which PEFT " + std::to_string(version[0]) +
                                 "." + std::to_string(version[1]) + "." + std::to_string(version[2]) +
                                 " does not know; it can only be left out at its default");
    }
  }
  config.source = std::move(kept);
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
