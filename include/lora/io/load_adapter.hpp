#pragma once
/// An adapter from a directory that Hugging Face PEFT or save_adapter has written:
///
/// ```cpp
/// #include <lora/io/load_adapter.hpp>
/// #include <lora/io/save_adapter.hpp>
///
/// struct Net {
///   lora::Linear<float> fc1;
///   static void visit(auto& self, auto&& f) { f("fc1", self.fc1); }
/// };
///
/// int main() {
///   lora::Rng rng(1);
///   Net net{lora::Linear<float>({.in = 8, .out = 4}, rng)}, other = net;  // the same base weights
///   lora::attach(net, {.rank = 2}, rng);
///   net.fc1.adapter("default").as<lora::Lora<float>>().B.value.setOnes();
///   lora::save_adapter(net, "adapter", {.base_model_name_or_path = "gpt2"});  // for PEFT and load_adapter
///   const lora::PeftConfig config = lora::load_adapter(other, "adapter");     // from PEFT or save_adapter
///   lora::save_adapter(other, "adapter", {.config = config});                 // keeps settings that only PEFT knows
///   return net.fc1.merged() == other.fc1.merged() && config.lora.rank == 2 ? 0 : 1;
/// }
/// ```
///
/// The directory need not be trusted.

#include "lora/adapters/residual_lora.hpp"
#include "lora/core/finite.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/peft_base_tensors.hpp"
#include "lora/io/detail/peft_files.hpp"
#include "lora/io/detail/peft_match.hpp"
#include "lora/io/detail/peft_open.hpp"
#include "lora/io/detail/peft_support.hpp"
#include "lora/io/detail/peft_tensor_check.hpp"
#include "lora/io/mismatch.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/model/adaptable.hpp"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

struct LoadAdapterOptions {
  /// The name of the adapter in the model.
  std::string name = "default";
  /// Keys of adapter_config.json to be ignored instead of refused, such as {"init_lora_weights"} if the model has the
  /// base that PiSSA left. The model computes without them, and the returned config does not have them.
  std::vector<std::string> ignore = {};
  /// Tensors of the file that are left out, by their whole names: weights of the base that differ from the model's,
  /// such as {"base_model.model.model.embed_tokens.weight"}. What the adapter needs cannot be left out.
  std::vector<std::string> ignore_tensors = {};
  /// Loads infinity and NaN instead of refusing them.
  bool allow_non_finite = false;
};

namespace detail {

/// What a config gives to one layer, and how the file stores its tensors.
struct PeftPlan {
  ModuleMatch match;
  const char* bias = nullptr;  // the part of the key; null: no trained bias
  bool stored_bias = true;     // false: it starts as the base's bias
  bool transposed = false;     // a full weight stored (in, out)
};

/// out, in: those of the layer.
PeftPlan plan_layer(Index out_features, Index in_features, bool has_bias, const ModuleMatch& match,
                    const PeftConfig& config, const PeftFiles& files, bool no_bias_stored, PeftTensorCheck& check);

inline constexpr std::string_view load_non_finite_advice =
    "; LoadAdapterOptions{.allow_non_finite = true} loads them as they are";

/// The adapter of a plan, with the values of the file, and its bias.
template <class S>
std::pair<AnyAdapter<S>, std::optional<Vector<S>>> read_layer(Index out, Index in, const Vector<S>* base_bias,
                                                              const PeftPlan& plan, const PeftConfig& config,
                                                              const PeftFiles& files,
                                                              const LoadAdapterOptions& options) {
  const std::string& path = plan.match.path;
  const auto read_into = [&](const char* part, auto& matrix) {
    const std::string key = peft_key(path, part);
    files.weights.read_into(key, matrix);
    if (options.allow_non_finite) return;
    check_finite(std::string_view(files.weights_path), "tensor " + shown(key), matrix, load_non_finite_advice);
  };
  std::optional<Vector<S>> bias;
  if (plan.bias != nullptr) {
    bias = *base_bias;
    if (plan.stored_bias) read_into(plan.bias, *bias);
  }
  if (plan.match.role == ModuleMatch::Role::full) {
    Matrix<S> weight(plan.transposed ? in : out, plan.transposed ? out : in);
    read_into("weight", weight);
    if (plan.transposed) weight = Matrix<S>(weight.transpose());
    return std::pair(AnyAdapter<S>(FullWeight<S>(std::move(weight))), std::move(bias));
  }
  if (plan.match.role == ModuleMatch::Role::bias) {
    return std::pair(AnyAdapter<S>(NoAdapter<S>()), std::move(bias));
  }
  LoraConfig own;
  own.rank = plan.match.rank;
  own.alpha = plan.match.alpha;
  own.scaling = config.lora.scaling;
  const Caller who(files.config_path, path);
  check_scale<S>(own, who);
  // Dropout streams differ between layers and adapters, and are the same whenever this file is loaded.
  std::uint64_t seed = 14695981039346656037ull;
  for (const char letter : path) seed = (seed ^ static_cast<unsigned char>(letter)) * 1099511628211ull;
  Rng rng(seed);
  Lora<S> factors(out, in, {.rank = 1, .init = Init::kaiming_uniform}, rng);
  factors.alpha = own.alpha;
  factors.scaling = own.scaling;
  factors.dropout.probability = config.lora.dropout;
  factors.A.value.resize(own.rank, in);
  factors.B.value.resize(out, own.rank);
  read_into("lora_A.weight", factors.A.value);
  read_into("lora_B.weight", factors.B.value);
  return std::pair(AnyAdapter<S>(std::move(factors)), std::move(bias));
}

LORA_IO_INSTANCE(std::pair<AnyAdapter<float>, std::optional<Vector<float>>> read_layer<float>(
    Index, Index, const Vector<float>*, const PeftPlan&, const PeftConfig&, const PeftFiles&,
    const LoadAdapterOptions&))
LORA_IO_DOUBLE_INSTANCE(std::pair<AnyAdapter<double>, std::optional<Vector<double>>> read_layer<double>(
    Index, Index, const Vector<double>*, const PeftPlan&, const PeftConfig&, const PeftFiles&,
    const LoadAdapterOptions&))

/// For a target_modules of null: the layers that the file has factors for.
ModuleNames targets_of(const std::vector<ModuleMatch>& matches, const PeftFiles& files);

/// Adds to modules_to_save what PEFT adds for the task, as far as the file has such layers: PEFT 0.7.1 does not write
/// the names that it has added.
void add_task_modules(PeftConfig& config, const ModelPaths& model,
                      FunctionRef<bool(const std::string& path)> has_weight);

/// Attaches the adapter of kind LORA in the files. If it throws, nothing has changed.
template <class T>
PeftConfig load_lora(T& model, const PeftFiles& files, const LoadAdapterOptions& options) {
  PeftConfig config = peft_config_of(files.config_path, files.settings);
  check_supported(files.config_path, config, options.ignore);
  config.from_weights = files.from_weights;
  for (const std::string& key : options.ignore) config.source.erase(key);

  const auto has = [&](std::string_view path, const char* part) {
    return files.weights.find(peft_key(path, part)) != nullptr;
  };
  const ModelPaths paths = paths_of(model);
  add_task_modules(config, paths, [&](const std::string& path) { return has(path, "weight"); });
  const auto matches = match_peft(
      paths, config.lora, config.targets, std::string_view(files.config_path),
      [&](const std::string& path) { return has(path, "lora_A.weight") || has(path, "lora_B.weight"); },
      [&](const std::string& parameter) {
        return files.weights.find(std::string(peft_prefix) + parameter) != nullptr;
      });
  if (config.targets.modules.empty()) config.targets.modules = targets_of(matches, files);
  // PEFT up to 0.18 at least stores no biases for lora_only, and reads none.
  const bool no_bias_stored =
      config.lora.bias == Bias::lora_only && std::none_of(matches.begin(), matches.end(), [&](const auto& match) {
        const bool adapted = match.role == ModuleMatch::Role::adapter;
        return has(match.path, "base_layer.bias") || (adapted && has(match.path, "bias"));
      });
  PeftTensorCheck check(files.weights);
  std::vector<PeftPlan> plans;
  visit_adaptable(std::as_const(model), [&](const Path&, const auto& layer) {
    plans.push_back(plan_layer(layer.out_features(), layer.in_features(), layer.bias() != nullptr,
                               matches[plans.size()], config, files, no_bias_stored, check));
  });
  std::optional<BaseTensors> base;  // only if something asks for it
  std::map<std::string_view, const ModuleMatch*> by_path;
  for (const ModuleMatch& match : matches) by_path.emplace(match.path, &match);
  check.finish(files.weights_path, options.ignore_tensors, [&](const StoredTensor& tensor) {
    if (!base) base.emplace(std::as_const(model), files.weights);
    const auto path = path_of_factor(tensor.name);
    return path && !base->has(base_path(tensor.name)) ? why_no_factors(*path, by_path, config.targets)
                                                      : base->difference(tensor);
  });

  std::vector<std::function<void()>> changes;
  visit_adaptable(model, [&](const Path&, auto& layer) {
    using S = typename std::remove_cvref_t<decltype(layer)>::Scalar;
    const PeftPlan& plan = plans[changes.size()];
    if (plan.match.role == ModuleMatch::Role::nothing) {
      changes.emplace_back([&layer] { layer.freeze(), layer.select_none(); });
      return;
    }
    changes.emplace_back([&layer, &options,
                          made = read_layer<S>(layer.out_features(), layer.in_features(), std::as_const(layer).bias(),
                                               plan, config, files, options)]() mutable {
      layer.attach(options.name, std::move(made.first), std::move(made.second));
    });
  });
  for (const auto& change : changes) change();
  freeze_base(model);
  return config;
}

/// Opens the files of an adapter. Throws NameError if the model has an adapter of this name already.
template <class T>
PeftFiles open_peft_for(const T& model, const std::filesystem::path& directory, std::string_view name) {
  visit_adaptable(model, [&](const Path&, const auto& layer) {
    static_assert(require_peft_layer<std::remove_cvref_t<decltype(layer)>>());
    layer.adapters().check_new_name(name);
  });
  return open_peft(peft_folder_to_load(directory, name, "load_adapter"));
}

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE PeftPlan plan_layer(Index out_features, Index in_features, bool has_bias, const ModuleMatch& match,
                                   const PeftConfig& config, const PeftFiles& files, bool no_bias_stored,
                                   PeftTensorCheck& check) {
  using Role = ModuleMatch::Role;
  PeftPlan plan{match};
  const auto out = static_cast<std::uint64_t>(out_features), in = static_cast<std::uint64_t>(in_features);
  const std::string& path = match.path;
  if (has_bias) {
    if (match.role == Role::adapter && config.lora.bias != Bias::none) {
      // PEFT up to 0.5 stores it under the layer's own name.
      const bool own_name = files.weights.find(peft_key(path, "base_layer.bias")) == nullptr &&
                            files.weights.find(peft_key(path, "bias")) != nullptr;
      plan.bias = own_name ? "bias" : "base_layer.bias";
    }
    if (match.role == Role::full || match.role == Role::bias) plan.bias = "bias";
  }
  if (match.role == Role::adapter) {
    const auto rank = static_cast<std::uint64_t>(match.rank);
    const StoredTensor* A = files.weights.find(peft_key(path, "lora_A.weight"));
    std::string remark;
    if (A != nullptr && A->shape.size() == 2 && A->shape[0] != rank) {
      remark = ": rank " + std::to_string(A->shape[0]) + " here, but rank " + std::to_string(rank) + " for " +
               in_quotes(path) + " in " + files.config_path;
    }
    check.want(peft_key(path, "lora_A.weight"), {rank, in}, remark);
    check.want(peft_key(path, "lora_B.weight"), {out, rank}, remark);
    plan.stored_bias = !no_bias_stored;
  }
  if (match.role == Role::full) {
    const std::string key = peft_key(path, "weight");
    const StoredTensor* weight = files.weights.find(key);
    if (config.fan_in_fan_out && in == out) {
      fail<ConfigError>(std::string_view(files.config_path),
                        "modules_to_save has the square layer " + in_quotes(path) +
                            " and fan_in_fan_out is true: its weight may be stored (out, in) or (in, out)");
    }
    plan.transposed = config.fan_in_fan_out && weight != nullptr && weight->shape == std::vector{in, out};
    check.want(key, plan.transposed ? std::vector{in, out} : std::vector{out, in});
    if (config.lora.bias == Bias::all && plan.bias != nullptr) {
      // PEFT writes it twice: under the name of the copy, too, in a layer or in a module that contains it.
      check.allow_copy(peft_key(path, "modules_to_save.bias"), peft_key(path, "bias"));
      for (std::size_t dot = path.find('.'); dot != path.npos; dot = path.find('.', dot + 1)) {
        check.allow_copy(peft_key(path.substr(0, dot) + ".modules_to_save.default" + path.substr(dot), "bias"),
                         peft_key(path, "bias"));
      }
    }
  }
  if (plan.bias != nullptr && plan.stored_bias) check.want(peft_key(path, plan.bias), {out});
  return plan;
}

LORA_IO_INLINE ModuleNames targets_of(const std::vector<ModuleMatch>& matches, const PeftFiles& files) {
  std::vector<std::string> targets;
  for (const ModuleMatch& match : matches) {
    if (match.role == ModuleMatch::Role::adapter) targets.push_back(match.path);
  }
  if (targets.empty()) {
    fail<MismatchError>(std::string_view(files.weights_path),
                        "has factors for no layer of the model, and target_modules is null");
  }
  return targets;
}

LORA_IO_INLINE void add_task_modules(PeftConfig& config, const ModelPaths& model,
                                     FunctionRef<bool(const std::string& path)> has_weight) {
  auto& saved = config.targets.modules_to_save;
  for (const std::string_view name : modules_of_task(config.task_type.value_or(""))) {
    const bool there = std::any_of(model.layers.begin(), model.layers.end(), [&](const ModelPaths::Layer& layer) {
      return is_part_of(name, layer.path) && has_weight(layer.path);
    });
    if (there && std::find(saved.begin(), saved.end(), name) == saved.end()) saved.emplace_back(name);
  }
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail

/// Adds the adapter to the model under a name and selects it alone, ready for inference and for further training; the
/// base is frozen. Returns its config, for save_adapter. An adapter other than "default" is in the sub-directory of its
/// name, or, if there is none, in the directory itself.
///
/// Weights that save_adapter wrote carry the settings that they were saved with. If adapter_config.json is missing or
/// says something else, the settings of the weights apply, and the returned config says so (from_weights).
///
/// rank_pattern and alpha_pattern are read as PEFT of today reads them. For a layer that different keys of the two
/// match, PEFT 0.7.1 took the first key of rank_pattern for both, and nothing in such a file says which of them wrote
/// it.
///
/// The tensors of the file must be those that the config gives to this model: MismatchError lists all that are missing,
/// unexpected or misshapen. A weight of the base, such as lm_head.base_layer.weight or embed_tokens.weight, may be
/// there if it equals the model's, converted to the model's scalar. F64, F32, F16 and BF16 are converted. Throws
/// FileError, FormatError for invalid files, ConfigError with the names of all settings that are neither applied nor
/// harmless (detail/peft_support.hpp lists both), NameError for an adapter name that is taken, or names that no layer
/// has, ValueError for infinity and NaN, naming tensor and place. With any of these the model is unchanged.
template <class T>
PeftConfig load_adapter(T& model, const std::filesystem::path& directory, const LoadAdapterOptions& options = {}) {
  return detail::load_lora(model, detail::open_peft_for(model, directory, options.name), options);
}

template <class T>
PeftConfig load_adapter(T& model, const std::filesystem::path& directory, std::string_view name) {
  return load_adapter(model, directory, LoadAdapterOptions{.name = std::string(name)});
}

}  // namespace lora::inline LORA_ABI
