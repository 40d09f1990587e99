#pragma once
/// The two files of a PEFT adapter: their folder, the names of their tensors, and how a mismatched pair is recognised.
///
///   adapter/adapter_config.json           the adapter "default"
///   adapter/adapter_model.safetensors
///   adapter/formal/adapter_config.json    the adapter "formal"
///
///   base_model.model.fc1.lora_A.weight    (rank, in)
///   base_model.model.fc1.lora_B.weight    (out, rank)
///   base_model.model.fc1.base_layer.bias  (out), a trained bias of a layer with factors
///   base_model.model.fc2.bias             (out), of another layer
///   base_model.model.head.weight          (out, in), of a layer that is trained in full; and its .bias
///
/// Source: peft 0.21.2, utils/save_and_load.py.

#include "lora/adapters/adapter_set.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/dtype.hpp"
#include "lora/io/mismatch.hpp"
#include "lora/io/peft_config.hpp"

#include <array>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace lora::inline LORA_ABI {

namespace detail {

inline constexpr std::string_view peft_prefix = "base_model.model.";
/// Settings that do not affect the meaning of the tensors.
inline constexpr std::array<const char*, 7> peft_remarks{
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version", "revision",
    "task_type"};

std::string peft_key(std::string_view path, std::string_view part);

/// The path of a layer, if the key is that of one of its factors.
std::optional<std::string_view> path_of_factor(std::string_view key);

/// The folder of the adapter `name` in the folder given to save or load.
std::filesystem::path peft_folder(const std::filesystem::path& folder, std::string_view name, const Caller& who);

/// As above to load from: without a folder of its name, the adapter is in the given folder itself.
std::filesystem::path peft_folder_to_load(const std::filesystem::path& folder, std::string_view name,
                                          const Caller& who);

/// A layer whose adapters can be saved and loaded.
template <class L>
concept PeftLayerType = StoredScalar<typename L::Scalar> && std::floating_point<typename L::Scalar> &&
                        requires(L& layer, const L& constant, AnyAdapter<typename L::Scalar> any,
                                 std::optional<Vector<typename L::Scalar>> bias) {
                          layer.attach("name", std::move(any), std::move(bias));
                          { constant.adapters() } -> std::same_as<const AdapterSet<typename L::Scalar>&>;
                        };

template <class L>
constexpr bool require_peft_layer() {
  static_assert(PeftLayerType<L>,
                "lora: adapters can be saved and loaded for layers of float or double with adapters() that is an "
                "AdapterSet and attach(name, adapter, bias), as Linear has them");
  return true;
}

/// The settings that affect the meaning of the tensors, as JSON: stored in the metadata of the weights, under this
/// name.
inline constexpr const char* peft_meaning_name = "lora_config";
std::string peft_meaning(const Json& settings);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::string peft_key(std::string_view path, std::string_view part) {
  return std::string(peft_prefix) + std::string(path) + "." + std::string(part);
}

LORA_IO_INLINE std::optional<std::string_view> path_of_factor(std::string_view key) {
  if (!key.starts_with(peft_prefix)) return std::nullopt;
  key.remove_prefix(peft_prefix.size());
  for (const std::string_view part : {".lora_A.weight", ".lora_B.weight"}) {
    if (key.ends_with(part)) return key.substr(0, key.size() - part.size());
  }
  return std::nullopt;
}

LORA_IO_INLINE std::filesystem::path peft_folder(const std::filesystem::path& folder, std::string_view name,
                                                 const Caller& who) {
  if (name.find_first_of(std::string_view("/\\\0", 3)) != name.npos || name.empty()) {
    fail<NameError>(who, "the adapter name " + shown(name) + " cannot be the name of a folder");
  }
  return name == "default" ? folder : folder / name;
}

LORA_IO_INLINE std::filesystem::path peft_folder_to_load(const std::filesystem::path& folder, std::string_view name,
                                                         const Caller& who) {
  std::error_code ignored;
  const auto own = peft_folder(folder, name, who);
  for (const char* file : {peft_config_name, peft_weights_name}) {
    if (std::filesystem::exists(own / file, ignored)) return own;
  }
  return folder;
}

LORA_IO_INLINE std::string peft_meaning(const Json& settings) {
  Json by_name = sorted_by_name(settings);
  if (by_name.is_object()) {
    for (const char* key : peft_remarks) by_name.erase(key);
  }
  return by_name.dump();
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail
}  // namespace lora::inline LORA_ABI
