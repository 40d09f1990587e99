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

#include "lora/adapters/residual_lora.hpp"
#include "lora/core/finite.hpp"
#include "lora/io/atomic_file.hpp"
#include "lora/io/detail/described.hpp"
#include "lora/io/detail/peft_describe.hpp"
#include "lora/io/detail/peft_files.hpp"
#include "lora/io/detail/peft_support.hpp"
#include "lora/io/detail/product_error.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "lora/model/adaptable.hpp"
#include "lora/model/attach.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
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

/// The LoRA factors to be saved: an adapter that starts from a part of W0 becomes one of twice the rank.
template <class S>
const Lora<S>* factors_of(const NamedAdapter<S>& member, std::optional<Lora<S>>& joined) {
  if (const auto* residual = member.adapter.template as<ResidualLora<S>>()) joined.emplace(residual->to_lora());
  return joined ? &*joined : member.adapter.template as<Lora<S>>();
}

/// Calls f(path, layer, member) for every layer; member is null if the layer has no adapter of this name.
template <class T, class F>
void visit_members(const T& model, std::string_view name, F&& f) {
  visit_adaptable(model, [&](const Path& path, const auto& layer) {
    static_assert(require_peft_layer<std::remove_cvref_t<decltype(layer)>>());
    f(path.str(), layer, layer.adapters().contains(name) ? &layer.adapters().at(name) : nullptr);
  });
}

template <class T>
std::vector<PeftLayer> peft_layers(const T& model, std::string_view name) {
  std::vector<PeftLayer> layers;
  visit_members(model, name, [&](std::string path, const auto& layer, const auto* member) {
    using S = typename std::remove_cvref_t<decltype(layer)>::Scalar;
    PeftLayer& one = layers.emplace_back();
    one.path = std::move(path);
    one.has_bias = layer.bias() != nullptr;
    if (member == nullptr) return;
    one.own_bias = member->bias.has_value();
    std::optional<Lora<S>> joined;
    if (const Lora<S>* factors = factors_of<S>(*member, joined)) {
      one.role = PeftLayer::Role::adapter;
      one.rank = factors->rank();
      one.alpha = factors->alpha;
      one.scaling = factors->scaling;
      one.dropout = factors->dropout.probability;
    } else if (member->adapter.template as<FullWeight<S>>() != nullptr) {
      one.role = PeftLayer::Role::full;
    } else if (one.own_bias && member->adapter.template as<NoAdapter<S>>() != nullptr) {
      one.role = PeftLayer::Role::bias;
    } else if (member->adapter.template as<NoAdapter<S>>() == nullptr) {
      fail<ConfigError>("save_adapter", "layer " + in_quotes(one.path) + " has an adapter of a kind that is not LORA");
    }
  });
  return layers;
}

template <class T>
PeftConfig peft_config_for(const T& model, const std::vector<PeftLayer>& layers, const SaveAdapterOptions& options,
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
  if (unknown || !describes(model, config, layers)) {
    std::vector<std::string> modules;
    visit_modules(model, [&](const Path& path, const auto&) { modules.push_back(path.str()); });
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

inline constexpr std::string_view save_non_finite_advice =
    "; SaveAdapterOptions{.allow_non_finite = true} saves them as they are";

/// matrix 2^exponent: exact unless a number leaves the range of normal ones.
template <class M>
M scaled_by_power(const M& matrix, int exponent) {
  return matrix.unaryExpr([exponent](auto x) { return std::ldexp(x, exponent); });
}

/// What to multiply A with, and divide B by, so that the rounded factors give the product: 2^shift. 0 as long as the
/// factors survive as they are, so that they are stored as they are. Throws ValueError if the product would be off by
/// more than 2^-11, or twice the dtype's rounding, because each factor is rounded once: in F16, 2^-10.
template <class S>
int balancing_shift(const std::string& path, const Lora<S>& factors, const SaveAdapterOptions& options) {
  const Dtype dtype = options.dtype.value_or(dtype_of<S>());
  if (smallest_infinite(dtype) > static_cast<double>(std::numeric_limits<S>::max())) return 0;  // nothing is rounded
  const auto& A = factors.A.value;
  const auto& B = factors.B.value;
  if (!A.allFinite() || !B.allFinite()) return 0;  // refused, or saved on purpose
  const double most = std::max(2 * rounding_of(dtype), 0x1p-11);
  const double as_is = product_error(A, B, 0, dtype);
  if (as_is <= most) return 0;
  const auto exponent_of = [](const auto& matrix) {
    int exponent = 0;
    std::frexp(static_cast<double>(matrix.size() == 0 ? S(0) : matrix.cwiseAbs().maxCoeff()), &exponent);
    return exponent;
  };
  const int shift = (exponent_of(B) - exponent_of(A)) / 2;
  const double balanced = product_error(A, B, shift, dtype);
  if (balanced <= most) return shift;
  fail<ValueError>(Caller("save_adapter", path),
                   "as " + std::string(name(dtype)) + " the factors A (at most " +
                       text_of(static_cast<double>(A.cwiseAbs().maxCoeff())) + ") and B (at most " +
                       text_of(static_cast<double>(B.cwiseAbs().maxCoeff())) + ") give a product that is off by " +
                       text_of(100 * std::min(as_is, balanced)) + " %; save them as F32");
}

/// The tensors of the adapter, which refer to the model's memory.
template <class T>
std::vector<TensorToSave> peft_tensors(const T& model, const PeftConfig& config, const SaveAdapterOptions& options) {
  std::vector<TensorToSave> tensors;
  const auto add = [&](const std::string& path, const char* part, auto&& matrix) {
    const std::string key = peft_key(path, part);
    if (!options.allow_non_finite) check_finite("save_adapter", "tensor " + shown(key), matrix, save_non_finite_advice);
    tensors.emplace_back(key, std::forward<decltype(matrix)>(matrix), options.dtype);
  };
  visit_members(model, options.name, [&](const std::string& path, const auto& layer, const auto* member) {
    using S = typename std::remove_cvref_t<decltype(layer)>::Scalar;
    const auto add_bias = [&](const char* part) {
      if (layer.bias() == nullptr) return;
      add(path, part, member != nullptr && member->bias ? member->bias->value : *layer.bias());
    };
    if (member != nullptr) {
      std::optional<Lora<S>> joined;
      if (const Lora<S>* factors = factors_of<S>(*member, joined)) {
        if (const int shift = balancing_shift(path, *factors, options); shift != 0) {
          add(path, "lora_A.weight", scaled_by_power(factors->A.value, shift));
          add(path, "lora_B.weight", scaled_by_power(factors->B.value, -shift));
        } else if (joined) {
          add(path, "lora_A.weight", std::move(joined->A.value));
          add(path, "lora_B.weight", std::move(joined->B.value));
        } else {
          add(path, "lora_A.weight", factors->A.value);
          add(path, "lora_B.weight", factors->B.value);
        }
        if (config.lora.bias != Bias::none) add_bias("base_layer.bias");
        return;
      }
      if (const auto* full = member->adapter.template as<FullWeight<S>>()) {
        add(path, "weight", full->weight.value);
        add_bias("bias");
        return;
      }
    }
    if (config.lora.bias == Bias::all) add_bias("bias");
  });
  return tensors;
}

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

/// The peft_type of the adapter if it is not LORA; empty if it is LORA, or if files store no such adapter.
template <class T>
std::string other_kind(const T& model, std::string_view name, const Caller& who) {
  std::string type, first;
  visit_members(model, name, [&](const std::string& path, const auto&, const auto* member) {
    if (member == nullptr || member->adapter.peft_type().empty()) return;
    if (type.empty()) {
      type = member->adapter.peft_type();
      first = path;
    }
    if (type == member->adapter.peft_type()) return;
    fail<ConfigError>(who, "layer " + in_quotes(first) + " has an adapter of kind " + type + ", layer " +
                               in_quotes(path) + " one of kind " + std::string(member->adapter.peft_type()) +
                               "; a file has one kind");
  });
  return type == "LORA" ? "" : type;
}

/// Writes an adapter of a kind other than LORA, with the settings and tensors that the kind lists.
template <class System, class T>
void save_kind(const T& model, const std::filesystem::path& path, const std::string& type,
               const SaveAdapterOptions& options, const Caller& who) {
  PeftConfig config;
  std::vector<std::string> targets;
  std::optional<std::vector<AdapterSetting>> settings;
  std::vector<TensorToSave> tensors;
  visit_members(model, options.name, [&](const std::string& layer_path, const auto&, const auto* member) {
    using S = typename std::remove_cvref_t<decltype(*member)>::Scalar;
    if (member == nullptr) return;
    if (member->bias || member->adapter.peft_type().empty()) {
      fail<ConfigError>(who, "layer " + in_quotes(layer_path) + " has a trained bias or a trained copy, which can be " +
                                 "saved with adapters of kind LORA only, not " + type);
    }
    check_described(who, layer_path, member->adapter);
    const auto own = member->adapter.settings();
    if (settings && *settings != own) {
      fail<ConfigError>(who, "layer " + in_quotes(layer_path) + " has other settings than " + in_quotes(targets[0]) +
                                 ", expected the same for all layers of kind " + type);
    }
    settings = own;
    targets.push_back(layer_path);
    member->adapter.tensors([&](const AdapterTensor<const S>& tensor) {
      const std::string key = peft_key(layer_path, tensor.name);
      if (!options.allow_non_finite) check_finite(who, "tensor " + shown(key), tensor.value, save_non_finite_advice);
      if (tensor.is_vector) {
        tensors.emplace_back(key, Vector<S>(tensor.value.reshaped()), options.dtype);
      } else {
        tensors.emplace_back(key, Matrix<S>(tensor.value), options.dtype);
      }
    });
  });
  Json& source = config.source;
  const Json& loaded = options.config.source;  // what is not written here stays as it was
  if (loaded.is_object() && loaded.value("peft_type", Json()) == Json(type)) source = loaded;
  source.update({{"peft_type", type}, {"bias", "none"}, {"inference_mode", true}, {"target_modules", targets}});
  if (options.task_type) source["task_type"] = *options.task_type;
  if (options.base_model_name_or_path) source["base_model_name_or_path"] = *options.base_model_name_or_path;
  for (const AdapterSetting& setting : *settings) {
    source[setting.name] = std::visit(
        [](const auto& value) {
          if constexpr (std::is_same_v<decltype(value), const double&>) return json_number(value);
          return Json(value);
        },
        setting.value);
  }
  write_peft<System>(path, config, tensors);
}

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
void save_adapter(const T& model, const std::filesystem::path& directory, const SaveAdapterOptions& given = {}) {
  constexpr const char* who = "save_adapter";
  SaveAdapterOptions options = given;
  if constexpr (requires { T::task_type; }) {
    if (!options.task_type && !options.config.task_type) options.task_type = T::task_type;
  }
  detail::check_has_adapter(model, who, options.name);
  const auto path = detail::peft_folder(directory, options.name, who);
  if (const std::string type = detail::other_kind(model, options.name, who); !type.empty()) {
    return detail::save_kind<System>(model, path, type, options, who);
  }
  const std::vector<detail::PeftLayer> layers = detail::peft_layers(model, options.name);
  const PeftConfig config = detail::peft_config_for(model, layers, options, who);
  detail::write_peft<System>(path, config, detail::peft_tensors(model, config, options));
}

}  // namespace lora::inline LORA_ABI
