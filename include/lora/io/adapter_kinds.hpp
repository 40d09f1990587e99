#pragma once
/// Adapters of any kind in files: the two files of PEFT, with the settings and tensors that each kind lists.
///
///   lora::save_adapter(net, "adapter/");                                                   // of any kind
///   lora::load_adapter(net, "adapter/", lora::AdapterKinds<MyConfig, OtherConfig>());      // LORA, or one of these
///
/// A config that lists its settings can be read from a file:
///
///   struct MyConfig {
///     double strength = 1;
///     template <class S> using Kind = MyAdapter<S>;
///     static void settings(auto& self, auto&& f) { f("strength", self.strength); }
///   };

#include "lora/io/detail/described.hpp"
#include "lora/io/load_adapter.hpp"
#include "lora/io/save_adapter.hpp"

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

/// The kinds that a file may have besides LORA, by their configs.
template <class... Configs>
struct AdapterKinds {};

namespace detail {

/// The keys that are read for a kind other than LORA, besides the settings of the kind.
inline constexpr std::array<std::string_view, 8> general_settings{
    "base_model_name_or_path", "bias",     "inference_mode", "modules_to_save", "peft_type", "revision",
    "target_modules",          "task_type"};

/// The config of a kind from the settings of a file. Throws FormatError for a setting of another type, ConfigError for
/// a setting that the kind does not list.
template <class C>
C config_from(const Json& source, const std::string& who, const std::vector<std::string>& ignore) {
  const PeftSettings settings(who, source);
  C config{};
  std::vector<std::string_view> known(general_settings.begin(), general_settings.end());
  if constexpr (requires { C::settings(config, [](const char*, auto&) {}); }) {
    C::settings(config, [&](const char* key, auto& value) {
      using T = std::remove_cvref_t<decltype(value)>;
      known.emplace_back(key);
      if (const auto found = source.find(key); found != source.end() && found->is_null()) {
        settings.refuse(key, *found, "a value, or that it is not there");
      }
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
  check_settings(who, source, known, ignore);
  return config;
}

template <class S>
std::vector<std::uint64_t> shape_in_file(const AdapterTensor<S>& tensor) {
  const auto rows = static_cast<std::uint64_t>(tensor.value.rows()),
             cols = static_cast<std::uint64_t>(tensor.value.cols());
  return tensor.is_vector ? std::vector{rows * cols} : std::vector{rows, cols};
}

/// Attaches the adapter of a file whose kind has the config C. If it throws, nothing has changed.
template <class C, class T>
void load_kind(T& model, const PeftFiles& files, const LoadAdapterOptions& options) {
  const C config = config_from<C>(files.settings, files.config_path, options.ignore);
  const PeftSettings settings(files.config_path, files.settings);
  const Caller who(files.config_path);
  if (const auto bias = files.settings.find("bias"); bias != files.settings.end() && *bias != Json("none")) {
    fail<ConfigError>(who, "bias is set, expected \"none\" for a kind of adapter that is not LORA");
  }
  if (!settings.list("modules_to_save").empty()) {
    fail<ConfigError>(who, "modules_to_save is set, expected none for a kind of adapter that is not LORA");
  }
  const auto matches = match_peft(
      paths_of(model), config, Targets{.modules = settings.names("target_modules")}, who,
      [](const std::string&) { return true; }, [](const std::string&) { return false; });

  PeftTensorCheck check(files.weights);
  std::vector<std::function<void()>> reads, changes;
  auto match = matches.begin();
  visit_adaptable(model, [&](const Path&, auto& layer) {
    using S = typename std::remove_cvref_t<decltype(layer)>::Scalar;
    const ModuleMatch& own = *match++;
    if (own.role != ModuleMatch::Role::adapter) {
      changes.emplace_back([&layer] { layer.freeze(), layer.select_none(); });
      return;
    }
    Rng rng(1);  // the values that it draws are overwritten
    auto made = std::make_shared<AnyAdapter<S>>(make_adapter(layer, config_for(config, own), rng));
    check_described(who, own.path, *made);
    std::as_const(*made).tensors([&](const AdapterTensor<const S>& tensor) {
      check.want(peft_key(own.path, tensor.name), shape_in_file(tensor));
    });
    reads.emplace_back([&files, &own, &options, made] {
      made->tensors([&](const AdapterTensor<S>& tensor) {
        auto value = tensor.value;
        const std::string key = peft_key(own.path, tensor.name);
        const Matrix<S> stored = files.weights.template read<S>(key);
        if (!options.allow_non_finite) {
          check_finite(std::string_view(files.weights_path), "tensor " + shown(key), stored, load_non_finite_advice);
        }
        value = stored.reshaped(value.rows(), value.cols());
      });
    });
    changes.emplace_back([&layer, &options, made] { layer.attach(options.name, std::move(*made)); });
  });
  std::optional<BaseTensors> stored;
  check.finish(files.weights_path, options.ignore_tensors, [&](const StoredTensor& tensor) {
    if (!stored) stored.emplace(std::as_const(model), files.weights);
    return stored->difference(tensor);
  });
  for (const auto& read : reads) read();  // all of them before the first layer changes
  for (const auto& change : changes) change();
  freeze_base(model);
}

}  // namespace detail

/// load_adapter for files of LORA and of the given kinds; selects the adapter alone. Returns the file's config; for a
/// kind other than LORA it has only `source` and `from_weights`. Throws what load_adapter throws, and ConfigError for
/// another peft_type, or with the names of settings that the kind does not list; the model is unchanged then.
template <class T, class... Configs>
PeftConfig load_adapter(T& model, const std::filesystem::path& directory, AdapterKinds<Configs...>,
                        const LoadAdapterOptions& options = {}) {
  const detail::PeftFiles files = detail::open_peft_for(model, directory, options.name);
  if (!files.settings.is_object()) {
    detail::fail<FormatError>(std::string_view(files.config_path), "is not a JSON object, expected one of settings");
  }
  const std::string type = detail::PeftSettings(files.config_path, files.settings).text("peft_type").value_or("");
  if (type == "LORA") return detail::load_lora(model, files, options);
  bool loaded = false;
  const auto load = [&]<class C>(const C*) {
    if (loaded || type != C::template Kind<float>::peft_type) return;
    detail::load_kind<C>(model, files, options);
    loaded = true;
  };
  (load(static_cast<const Configs*>(nullptr)), ...);
  if (loaded) {
    PeftConfig config;
    config.source = files.settings;
    config.from_weights = files.from_weights;
    for (const std::string& key : options.ignore) config.source.erase(key);
    return config;
  }
  std::string known = "\"LORA\"";
  ((known += ", \"" + std::string(Configs::template Kind<float>::peft_type) + "\""), ...);
  detail::fail<ConfigError>(
      std::string_view(files.config_path),
      "peft_type is " + (type.empty() ? "missing" : detail::shown(type)) + ", expected one of " + known);
}

template <class T, class... Configs>
PeftConfig load_adapter(T& model, const std::filesystem::path& directory, AdapterKinds<Configs...> kinds,
                        std::string_view name) {
  return load_adapter(model, directory, kinds, LoadAdapterOptions{.name = std::string(name)});
}

}  // namespace lora::inline LORA_ABI
