#pragma once
/// An adapter as a directory that Hugging Face PEFT loads:
///
///   lora::save_adapter(net, "adapter/");
///   lora::save_adapter(net, "adapter/", {.name = "formal", .base_model_name_or_path = "gpt2"});
///
///   model = PeftModel.from_pretrained(base, "adapter/")     # the same values, in Python
///
/// Layers are named by their paths in the model, so a model whose paths are those of the PyTorch model fits it. A whole
/// program is in load_adapter.hpp.

#include "lora/io/atomic_file.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/peft_describe.hpp"
#include "lora/io/detail/peft_files.hpp"
#include "lora/io/detail/peft_member.hpp"
#include "lora/io/detail/peft_support.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "lora/model/attach.hpp"  // IWYU pragma: keep
#include "lora/model/match.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

struct SaveAdapterOptions {
  /// The adapter; any but "default" goes into a sub-directory of its name, as in PEFT.
  std::string name = "default";
  /// What load_adapter returned: its settings are kept, including those unknown to this library. For a new adapter, the
  /// config wherever the layers do not say otherwise, such as {.lora = the config given to attach}.
  PeftConfig config = {};
  std::optional<std::string> base_model_name_or_path = {};
  /// Default: that of the config, else the model's T::task_type if it has one, as a published classifier does.
  std::optional<std::string> task_type = {};
  /// See PeftConfig.
  std::optional<bool> fan_in_fan_out = {};
  /// F64, F32, F16 or BF16; the model's own scalar if empty.
  std::optional<Dtype> dtype = {};
  /// Saves infinity and NaN instead of refusing them.
  bool allow_non_finite = false;
};

namespace detail {

PeftConfig peft_config_for(const std::vector<PeftLayer>& layers, const std::vector<std::string>& modules,
                           const ModelPaths& paths, const SaveAdapterOptions& options, const Caller& who);

/// Throws NameError unless a layer has it; the message lists the existing names.
void check_has_adapter(const PeftModel& model, std::string_view name, const Caller& who);

/// The peft_type of the adapter if it is not LORA; empty if it is LORA, or if files store no such adapter.
std::string other_kind(const PeftModel& model, const Caller& who);

/// The config and the tensors of an adapter of a kind other than LORA, with what the kind lists.
PeftConfig kind_config_for(const PeftModel& model, PeftTensors& tensors, const std::string& type,
                           const SaveAdapterOptions& options, const Caller& who);

/// Writes the two files: both are on the disk before the first is committed, which is that of the weights: they carry
/// the settings that give them their meaning.
template <class System>
void write_peft(const std::filesystem::path& folder, const PeftConfig& config,
                const std::vector<TensorToSave>& tensors) {
  const std::string json = python_json(config.source);
  check_path(folder);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error && !std::filesystem::is_directory(folder)) fail_system(folder, "make the folder", error.value());
  AtomicFile<System> weights(folder / peft_weights_name);
  write_safetensors([&](std::span<const std::byte> bytes) { weights.write(bytes); }, tensors,
                    {{"format", "pt"}, {peft_meaning_name, peft_meaning(config.source)}});
  AtomicFile<System> settings(folder / peft_config_name);
  settings.write(json);
  weights.prepare();
  settings.prepare();
  weights.commit();
  settings.commit();
}

/// save_adapter, for a model with this task_type, or null.
template <class System>
void save_peft(const PeftModel& model, const ModelPaths& paths, const std::filesystem::path& directory,
               const SaveAdapterOptions& given, const char* task_type) {
  constexpr const char* who = "save_adapter";
  SaveAdapterOptions options = given;
  if (task_type != nullptr && !options.task_type && !options.config.task_type) options.task_type = task_type;
  check_has_adapter(model, options.name, who);
  const auto path = peft_folder(directory, options.name, who);
  PeftTensors tensors{.dtype = options.dtype, .allow_non_finite = options.allow_non_finite};
  if (const std::string type = other_kind(model, who); !type.empty()) {
    const PeftConfig config = kind_config_for(model, tensors, type, options, who);
    return write_peft<System>(path, config, tensors.all);
  }
  std::vector<PeftLayer> layers;
  for (const auto& member : model.layers) layers.push_back(member->layer());
  const PeftConfig config = peft_config_for(layers, model.modules, paths, options, who);
  for (const auto& member : model.layers) member->add_to(tensors, config.lora.bias);
  write_peft<System>(path, config, tensors.all);
}

LORA_IO_INSTANCE(void save_peft<PosixFiles>(const PeftModel&, const ModelPaths&, const std::filesystem::path&,
                                            const SaveAdapterOptions&, const char*))

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE PeftConfig peft_config_for(const std::vector<PeftLayer>& layers, const std::vector<std::string>& modules,
                                          const ModelPaths& paths, const SaveAdapterOptions& options,
                                          const Caller& who) {
  PeftConfig config = options.config;
  if (options.base_model_name_or_path) config.base_model_name_or_path = options.base_model_name_or_path;
  if (options.task_type) config.task_type = options.task_type;
  if (options.fan_in_fan_out) config.fan_in_fan_out = *options.fan_in_fan_out;
  check_supported("save_adapter", config);
  for (const std::string_view name : modules_of_task(config.task_type.value_or(""))) {
    for (const PeftLayer& layer : layers) {
      if (layer.role != PeftLayer::Role::adapter || !is_part_of(name, layer.path)) continue;
      fail<ConfigError>(who, "the task_type is " + *config.task_type + ", for which PEFT trains " + in_quotes(name) +
                                 " in full, but the layer " + in_quotes(layer.path) +
                                 " has factors; leave task_type out");
    }
  }
  const bool stabilized = config.lora.scaling == Scaling::alpha_over_sqrt_rank;
  const bool unknown = config.source.empty() && (stabilized || !config.targets.exclude.empty());
  if (unknown || !describes(paths, config, layers)) {
    describe_layers(layers, modules, config.lora, config.targets, who);
    // PEFT would wrap the module that it trains for the task, and then find none of the layers inside.
    for (const std::string_view name : modules_of_task(config.task_type.value_or(""))) {
      std::vector<std::string>& full = config.targets.modules_to_save;
      const auto inside = [&](const std::string& path) { return is_part_of(name, path); };
      const bool whole = std::all_of(layers.begin(), layers.end(), [&](const PeftLayer& layer) {
        return !inside(layer.path) || layer.role == PeftLayer::Role::full;
      });
      if (whole && std::erase_if(full, inside) > 0) full.emplace_back(name);
    }
  }
  return parse_peft_config("save_adapter", to_json(config));
}

LORA_IO_INLINE void check_has_adapter(const PeftModel& model, std::string_view name, const Caller& who) {
  std::set<std::string> names;
  for (const auto& member : model.layers) {
    if (member->has_adapter()) return;
    member->add_names(names);
  }
  fail_no_adapter(who, name, !model.layers.empty(), names);
}

LORA_IO_INLINE std::string other_kind(const PeftModel& model, const Caller& who) {
  std::string type, first;
  for (const auto& member : model.layers) {
    const std::string own(member->kind());
    if (own.empty()) continue;
    if (type.empty()) {
      type = own;
      first = member->path();
    }
    if (type == own) continue;
    fail<ConfigError>(who, "layer " + in_quotes(first) + " has an adapter of kind " + type + ", layer " +
                               in_quotes(member->path()) + " one of kind " + own + "; a file has one kind");
  }
  return type == "LORA" ? "" : type;
}

LORA_IO_INLINE PeftConfig kind_config_for(const PeftModel& model, PeftTensors& tensors, const std::string& type,
                                          const SaveAdapterOptions& options, const Caller& who) {
  PeftConfig config;
  std::vector<std::string> targets;
  std::optional<std::vector<AdapterSetting>> settings;
  for (const auto& member : model.layers) {
    if (!member->has_adapter()) continue;
    if (member->has_own_bias() || member->kind().empty()) {
      fail<ConfigError>(who, "layer " + in_quotes(member->path()) +
                                 " has a trained bias or a trained copy, which can be saved with adapters of kind "
                                 "LORA only, not " +
                                 type);
    }
    member->check_described(who);
    const auto own = member->settings();
    if (settings && *settings != own) {
      fail<ConfigError>(who, "layer " + in_quotes(member->path()) + " has other settings than " +
                                 in_quotes(targets[0]) + ", expected the same for all layers of kind " + type);
    }
    settings = own;
    targets.push_back(member->path());
    member->add_kind_to(tensors);
  }
  Json& source = config.source;
  const Json& loaded = options.config.source;  // what is not written here stays as it was
  if (loaded.is_object() && loaded.value("peft_type", Json()) == Json(type)) source = loaded;
  source.update({{"peft_type", type}, {"bias", "none"}, {"inference_mode", true}, {"target_modules", targets}});
  if (options.task_type) source["task_type"] = *options.task_type;
  if (options.base_model_name_or_path) source["base_model_name_or_path"] = *options.base_model_name_or_path;
  for (const AdapterSetting& setting : *settings) {
    setting.visit([&](const auto& value) {
      if constexpr (std::is_same_v<decltype(value), const double&>) {
        source[setting.name] = json_number(value);
      } else {
        source[setting.name] = value;
      }
    });
  }
  return config;
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail

/// Writes adapter_model.safetensors and adapter_config.json, each atomically, and nothing else in the directory:
/// whatever fails, and whenever the process is killed, load_adapter finds the whole old adapter or the whole new one.
/// The weights are committed first and carry the settings that give them their meaning (in the metadata, under
/// "lora_config"), so a kill between the two leaves new weights beside an old config, and load_adapter uses the
/// settings of the weights. PEFT reads no metadata and would use the old config with the new weights: save again before
/// you use it.
///
/// Without options.config the config is new: its target_modules are the full paths of the layers with factors, r and
/// lora_alpha those of most layers, rank_pattern and alpha_pattern those of the others. rsLoRA becomes lora_alpha =
/// alpha sqrt(rank): the scale is the same double, or an adjacent one if the rank is not a power of 2. A ResidualLora
/// becomes an ordinary adapter of twice the rank. If one bias is trained, the others are saved too. A loaded config is
/// kept as long as it describes the model, and changed where it does not.
///
/// An adapter of another kind is saved with the settings and tensors that the kind lists (adapter_kinds.hpp). A kind
/// that lists too little, a parameter in visit that describe does not have, or a setting of its config, is refused.
///
/// Factors that a narrower dtype would not hold, such as an A of 1 beside a B of 1e-7 in F16, are multiplied by 2^k and
/// 2^-k, which leaves their product as it is; factors that survive the rounding stay as they are.
///
/// Throws NameError if there is no adapter of this name; ConfigError or NameError for an adapter that PEFT cannot
/// express, such as one with two dropouts; ValueError, naming tensor and place, for infinity and NaN, for a number that
/// becomes infinite in the dtype, and for a product that it cannot hold; FileError with the path and the step. Cost: a
/// few passes over the adapter's elements.
template <class T, class System = PosixFiles>
void save_adapter(const T& model, const std::filesystem::path& directory, const SaveAdapterOptions& options = {}) {
  const char* task_type = nullptr;
  if constexpr (requires { T::task_type; }) task_type = T::task_type;
  detail::save_peft<System>(detail::peft_model(model, options.name), detail::paths_of(model), directory, options,
                            task_type);
}

}  // namespace lora::inline LORA_ABI
