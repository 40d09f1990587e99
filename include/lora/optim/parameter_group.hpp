#pragma once
/// Settings of an optimizer for some of the parameters, selected by name.
///
/// LoRA+ (Hayou et al. 2024, arXiv:2402.12354) trains B faster than A; it is one group:
///
///   const auto is_b = [](const Path& path) { return path.ends_with("B"); };
///   AdamW<float> optimizer({.lr = 1e-3, .groups = {{.select = is_b, .lr = 16e-3}}});

#include "lora/core/error.hpp"
#include "lora/core/path.hpp"

#include <cmath>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI {

/// The first group that selects a parameter wins; a field that is not given comes from the optimizer's own config, and
/// so does everything for a parameter that no group selects.
struct ParameterGroup {
  /// Called once per parameter, at its first step. It must depend on the path alone.
  std::function<bool(const Path&)> select = nullptr;
  std::optional<double> lr = std::nullopt;
  std::optional<double> weight_decay = std::nullopt;
};

namespace detail {

inline void check_setting(std::string_view who, std::string_view what, double given, bool good,
                          std::string_view expected) {
  if (good) return;
  fail<ConfigError>(who, std::string(what) + " is " + text_of(given) + ", expected " + std::string(expected));
}

inline void check_not_negative(std::string_view who, std::string_view what, double given) {
  check_setting(who, what, given, std::isfinite(given) && given >= 0, "a finite number, 0 or more");
}

/// Throws ConfigError that names the group and the field.
inline void validate_groups(std::string_view who, const std::vector<ParameterGroup>& groups) {
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const std::string name = "groups[" + std::to_string(i) + "]";
    if (!groups[i].select) fail<ConfigError>(who, name + ".select is empty, expected a function of the path");
    if (groups[i].lr) check_not_negative(who, name + ".lr", *groups[i].lr);
    if (groups[i].weight_decay) check_not_negative(who, name + ".weight_decay", *groups[i].weight_decay);
  }
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
