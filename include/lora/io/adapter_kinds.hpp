#pragma once
/// Adapters of any kind in files: the two files of PEFT, with the settings and tensors that the kind lists for itself.
///
///   lora::save_adapter(net, "adapter/");                                                   // of whatever kind
///   lora::load_adapter(net, "adapter/", lora::AdapterKinds<MyConfig, OtherConfig>());      // LORA, or one of these
///
/// A config that lists its settings is made from a file:
///
///   struct MyConfig {
///     double strength = 1;
///     template <class S> using Kind = MyAdapter<S>;
///     static void settings(auto& self, auto&& f) { f("strength", self.strength); }
///   };

#include "lora/io/load_adapter.hpp"
#include "lora/io/save_adapter.hpp"

#include <algorithm>
#include <array>
#include <concepts>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// The kinds that a file may be of besides LORA, by their configs.
template <class... Configs>
struct AdapterKinds {};

namespace detail {

/// Keys that say nothing about the numbers of an adapter of another kind than LORA, or what is read elsewhere.
inline constexpr std::array<std::string_view, 10> general_keys{
    "auto_mapping", "base_model_name_or_path", "bias",      "inference_mode", "modules_to_save", "peft_type",
    "peft_version", "target_modules",          "task_type", "revision"};

/// A config as its keys and the texts of their values, nothing else of it read.
inline PeftConfig parse_any_config(std::string_view who, std::string_view text) {
  const JsonValue root = read_json_value(who, text, peft_config_limits);
  if (root.kind != JsonValue::Kind::object) fail<FormatError>(who, "is no JSON object");
  PeftConfig config;
  for (std::size_t i = 0; i < root.items.size(); ++i) config.source[root.names[i]] = python_json(root.items[i], 1);
  return config;
}

/// A config of this kind from the settings of a file. Throws FormatError for one of another type, ConfigError for one
/// that the kind does not list.
template <class C>
C config_from(const PeftConfig& file, const std::string& who) {
  const JsonValue root = read_json_value(who, json_object(file.source), peft_config_limits);
  const PeftSettings settings(who, root);
  C config{};
  std::vector<std::string> known;
  if constexpr (requires { C::settings(config, [](const char*, auto&) {}); }) {
    C::settings(config, [&](const char* key, auto& value) {
      using T = std::remove_cvref_t<decltype(value)>;
      known.emplace_back(key);
      if constexpr (std::is_same_v<T, bool>) {
        value = settings.flag(key, value);
      } else if constexpr (std::integral<T>) {
        value = static_cast<T>(settings.integer(key, static_cast<Index>(value)));
      } else if constexpr (std::floating_point<T>) {
        value = static_cast<T>(settings.number(key, static_cast<double>(value)));
      } else {
        value = settings.text(key).value_or(value);
      }
    });
  }
  for (const std::string& key : root.names) {
    const bool general = std::find(general_keys.begin(), general_keys.end(), key) != general_keys.end();
    if (general || std::find(known.begin(), known.end(), key) != known.end() || settings.find(key.c_str()) == nullptr) {
      continue;
    }
    fail<ConfigError>(std::string_view(who), key + " is set, which this kind of adapter does not know");
  }
  return config;
}

template <class S>
std::vector<std::uint64_t> shape_in_file(const AdapterTensor<S>& tensor) {
  const auto rows = static_cast<std::uint64_t>(tensor.value.rows()),
             cols = static_cast<std::uint64_t>(tensor.value.cols());
  return tensor.is_vector ? std::vector{rows * cols} : std::vector{rows, cols};
}

/// Attaches what the file has, of the kind of this config. Nothing has changed if it throws.
template <class C, class T>
void load_kind(T& model, const PeftFiles& files, std::string_view name) {
  const C config = config_from<C>(files.config, files.config_path);
  const JsonValue root = read_json_value(files.config_path, json_object(files.config.source), peft_config_limits);
  const PeftSettings settings(files.config_path, root);
  const Caller who(files.config_path);
  if (settings.text("bias").value_or("none") != "none") {
    fail<ConfigError>(who, "bias is set, expected \"none\" for a kind of adapter that is not LORA");
  }
  if (!settings.texts("modules_to_save").empty()) {
    fail<ConfigError>(who, "modules_to_save is set, expected none for a kind of adapter that is not LORA");
  }
  const auto matches =
      match_modules(model, config, Targets{.modules = settings.names("target_modules")}, who, peft_words);

  PeftTensorCheck check(files.weights);
  std::vector<std::function<void()>> reads, changes;
  auto match = matches.begin();
  visit_adaptable(model, [&](const Path&, auto& layer) {
    using S = typename std::remove_cvref_t<decltype(layer)>::Scalar;
    const ModuleMatch& own = *match++;
    if (own.role != ModuleMatch::Role::adapter) {
      changes.emplace_back([&layer] { layer.select_none(); });
      return;
    }
    Rng rng(1);  // what it draws is overwritten
    const AnyBase<S> base = layer.frozen() ? layer.base() : AnyBase<S>(layer.dense());
    auto made = std::make_shared<AnyAdapter<S>>(typename C::template Kind<S>(base, config_for(config, own), rng));
    std::as_const(*made).tensors([&](const AdapterTensor<const S>& tensor) {
      check.want(peft_key(own.path, tensor.name), shape_in_file(tensor));
    });
    reads.emplace_back([&files, &own, made] {
      made->tensors([&](const AdapterTensor<S>& tensor) {
        auto value = tensor.value;
        value = files.weights.template read<S>(peft_key(own.path, tensor.name)).reshaped(value.rows(), value.cols());
      });
    });
    changes.emplace_back([&layer, made, name] { layer.attach(name, std::move(*made)); });
  });
  check.finish(files.weights_path);
  for (const auto& read : reads) read();  // all of them before the first layer changes
  for (const auto& change : changes) change();
  freeze_base(model);
}

}  // namespace detail

/// load_adapter for files of LORA and of the given kinds. Selected alone afterwards. Returns the file's config; of
/// another kind than LORA it has `source` and `from_weights` only. Throws what load_adapter throws, and ConfigError for
/// a peft_type that is none of them, or a setting that its kind does not know, by its name; the model is unchanged
/// then.
template <class T, class... Configs>
PeftConfig load_adapter(T& model, const std::filesystem::path& directory, AdapterKinds<Configs...>,
                        std::string_view name = "default") {
  visit_adaptable(std::as_const(model), [&](const Path&, const auto& layer) { layer.adapters().check_new_name(name); });
  const auto folder = detail::peft_folder_to_load(directory, name, "load_adapter");
  detail::PeftFiles files = detail::open_peft(
      folder, [](std::string_view who, std::string_view text) { return detail::parse_any_config(who, text); });
  const std::string type = files.config.source["peft_type"];
  if (type == "\"LORA\"") return load_adapter(model, directory, name);
  bool loaded = false;
  const auto load = [&]<class C>(const C*) {
    if (loaded || type != '"' + std::string(C::template Kind<float>::peft_type) + '"') return;
    detail::load_kind<C>(model, files, name);
    loaded = true;
  };
  (load(static_cast<const Configs*>(nullptr)), ...);
  if (loaded) return std::move(files.config);
  std::string known = "\"LORA\"";
  ((known += ", \"" + std::string(Configs::template Kind<float>::peft_type) + "\""), ...);
  detail::fail<ConfigError>(std::string_view(files.config_path),
                            "peft_type is " + (type.empty() ? "missing" : type) + ", expected one of " + known);
}

}  // namespace lora::inline LORA_ABI
