#pragma once
/// What gives the tensors of a model's adapters their meaning: kind, settings, and the constants that take part in
/// their products. Factors of alpha 4 in a model attached with alpha 8 are another function.

#include "lora/adapters/any_adapter.hpp"
#include "lora/core/visit.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/detail/tensor_numbers.hpp"
#include "lora/io/mismatch.hpp"

#include <bit>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Of one adapter: setting or constant, and its value as text.
using Meaning = std::map<std::string, std::string, std::less<>>;

/// Size and 64 bits of all numbers: constants such as A0 and B0 of a ResidualLora are compared by it, not stored.
template <class M>
std::string digest_of(const M& matrix) {
  using S = typename M::Scalar;
  std::uint64_t hash = 0x9e3779b97f4a7c15u;
  for (Index col = 0; col < matrix.cols(); ++col) {
    for (Index row = 0; row < matrix.rows(); ++row) {
      std::uint64_t bits = 0;
      if constexpr (sizeof(S) == 8) {
        bits = std::bit_cast<std::uint64_t>(matrix(row, col));
      } else {
        bits = std::bit_cast<std::uint32_t>(static_cast<float>(matrix(row, col)));
      }
      hash = (hash ^ bits) * 0xff51afd7ed558ccdu;
      hash ^= hash >> 32;
    }
  }
  char text[17] = {};
  std::to_chars(text, text + 16, hash, 16);
  return std::to_string(matrix.rows()) + " x " + std::to_string(matrix.cols()) + " with digest " + text;
}

/// Takes down the settings that a kind of adapter describes.
struct MeaningTable {
  Meaning& meaning;

  void setting(std::string_view name, const auto& value) const {
    using T = std::remove_cvref_t<decltype(value)>;
    if constexpr (std::same_as<T, bool> || std::floating_point<T> || std::integral<T>) {
      meaning.emplace(name, Json(value).dump());
    } else {
      meaning.emplace(name, value);
    }
  }
  void tensor(std::string_view, const auto&) const {}
};

/// Of all adapters, by their paths: "fc1.adapters.default".
template <class T>
std::map<std::string, Meaning> adapter_meanings(const T& model) {
  std::map<std::string, Meaning> all;
  std::vector<std::string> paths;
  visit_modules(model, [&](const Path& place, const auto& module) {
    if (!place.in_adapter()) return;
    using Module = std::remove_cvref_t<decltype(module)>;
    if constexpr (requires { module.adapter.settings(), module.adapter.peft_type(); }) {
      Meaning& meaning = all[place.str()];
      const MeaningTable table{meaning};
      for (const AdapterSetting& setting : module.adapter.settings()) {
        setting.visit([&](const auto& value) { table.setting(setting.name, value); });
      }
      meaning.emplace("kind", module.adapter.peft_type());
    } else if constexpr (requires(const MeaningTable& table) { Module::describe(module, table), Module::peft_type; }) {
      Meaning& meaning = all[place.str()];
      Module::describe(module, MeaningTable{meaning});
      meaning.emplace("kind", Module::peft_type);
    }
  });
  visit_tensors(model, [&](const Path& place, const auto& tensor) {
    using Tensor = std::remove_cvref_t<decltype(tensor)>;
    if constexpr (!ParameterLike<Tensor> && std::floating_point<typename Tensor::Scalar>) {
      if (!place.in_adapter()) return;
      // The adapter is the longest of the paths that contain it.
      const std::string path = place.str();
      for (std::size_t dot = path.rfind('.'); dot != path.npos && dot > 0; dot = path.rfind('.', dot - 1)) {
        const auto owner = all.find(path.substr(0, dot));
        if (owner == all.end()) continue;
        owner->second.emplace("constant " + path.substr(dot + 1), digest_of(numbers_of(tensor)));
        return;
      }
    }
  });
  return all;
}

/// As text for the metadata of a file.
std::string written(const Meaning& meaning);

/// Throws FormatError if it is none.
Meaning read_meaning(std::string_view who, std::string_view text);

/// Records every setting of an adapter that is not as it was saved.
void compare_meanings(Mismatches& mismatches, const std::string& path, const Meaning& saved, const Meaning& own);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::string written(const Meaning& meaning) { return Json(meaning).dump(); }

LORA_IO_INLINE Meaning read_meaning(std::string_view who, std::string_view text) {
  const Json root = parse_json(who, text);
  if (!root.is_object()) fail<FormatError>(who, "is " + found_in_json(root) + ", expected an object of settings");
  Meaning meaning;
  for (const auto& [name, value] : root.get_ref<const Json::object_t&>()) {
    if (!value.is_string()) fail<FormatError>(who, shown(name) + " is " + found_in_json(value) + ", expected a text");
    meaning.emplace(name, value.get<std::string>());
  }
  return meaning;
}

LORA_IO_INLINE void compare_meanings(Mismatches& mismatches, const std::string& path, const Meaning& saved,
                                     const Meaning& own) {
  for (const auto& [name, value] : own) {
    const auto there = saved.find(name);
    if (there != saved.end() && there->second == value) continue;
    mismatches.add(path, (there == saved.end() ? "was saved without " + name
                                               : "was saved with " + name + " " + shown(there->second)) +
                             ", expected " + shown(value));
  }
  for (const auto& [name, value] : saved) {
    if (!own.contains(name)) mismatches.add(path, "was saved with " + shown(name) + ", which it has not here");
  }
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
